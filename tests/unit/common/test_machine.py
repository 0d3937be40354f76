from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from common.cgroup import CpuQuota
from common.machine import Cores, Memory, has_gpu, read_cores, read_memory
from tests.unit.common.cgroup_trees import GIB, UNLIMITED_V1, make_tree, v2

MASK = tuple(range(64))


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up 64 cores and 128 GiB, 100 of them available."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(MASK))
    memory = SimpleNamespace(total=128 * GIB, available=100 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.mark.parametrize(
    ("quota", "count", "is_shared"),
    [
        ("200000 100000", 2, True),
        ("390000 100000", 3, True),  # a fourth thread would be stopped in every period
        ("30000 100000", 1, True),
        ("6400000 100000", 64, False),
        ("9900000 100000", 64, False),
        ("max 100000", 64, False),
    ],
)
def test_threads_follow_mask_and_quota(
    tmp_path: Path, quota: str, count: int, is_shared: bool
) -> None:
    cores = read_cores(v2(tmp_path, "/", {"cpu.max": quota}))
    assert (cores.mask, cores.count, cores.is_shared) == (MASK, count, is_shared)


def test_a_mask_narrower_than_the_quota_binds() -> None:
    cores = Cores((4, 5), CpuQuota(8.0, Path("cpu.max")))
    assert (cores.count, cores.is_shared) == (2, False)


def test_a_group_with_less_than_the_machine_binds(tmp_path: Path) -> None:
    files = {"memory.max": str(8 * GIB), "memory.current": str(2 * GIB)}
    tree = v2(tmp_path, "/", files)
    assert read_memory(tree) == Memory(8 * GIB, 6 * GIB, tree.root / "memory.max")


def test_a_group_with_more_than_is_free_does_not_bind(tmp_path: Path) -> None:
    tree = v2(tmp_path, "/", {"memory.max": str(120 * GIB), "memory.current": "0"})
    assert read_memory(tree) == Memory(120 * GIB, 100 * GIB)


def test_a_twentieth_of_all_memory_stays_free() -> None:
    assert Memory(20 * GIB, 5 * GIB).usable_bytes == 4 * GIB
    assert Memory(20 * GIB, GIB // 2).usable_bytes == 0


def test_v1_without_a_limit_leaves_the_machine_as_it_is(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/memory.usage_in_bytes": str(90 * GIB),
    }
    tree = make_tree(tmp_path, "9:memory:/\n", files)
    assert read_memory(tree) == Memory(128 * GIB, 100 * GIB)


def test_the_group_with_the_least_left_is_named(tmp_path: Path) -> None:
    files = {
        "a/memory.max": str(16 * GIB),
        "a/memory.current": str(15 * GIB),
        "a/b/memory.max": str(4 * GIB),
        "a/b/memory.current": str(GIB),
    }
    tree = v2(tmp_path, "/a/b", files)
    assert read_memory(tree) == Memory(4 * GIB, GIB, tree.root / "a/memory.max")


@pytest.mark.parametrize("name", ["nvidia0", "nvidia12", "kfd", "dxg"])
def test_a_gpu_shows_by_its_device_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "null").touch()
    assert not has_gpu(tmp_path)
    (tmp_path / name).touch()
    assert has_gpu(tmp_path)
