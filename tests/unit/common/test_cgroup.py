"""Quotas and limits read off fake trees, with numbers to be checked by hand."""

from pathlib import Path

import pytest

from common.cgroup import CgroupTree, cpu_quota, memory_limits
from tests.unit.common.cgroup_trees import GIB, UNLIMITED_V1, make_tree, v2


def cpus(tree: CgroupTree) -> float | None:
    quota = cpu_quota(tree)
    return None if quota is None else quota.cpus


def left(tree: CgroupTree) -> list[tuple[int, int]]:
    """Return limits and bytes left, own group first."""
    return [(limit.limit_bytes, limit.available_bytes) for limit in memory_limits(tree)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("200000 100000", 2.0),
        ("150000 100000", 1.5),
        ("50000 100000", 0.5),
        ("max 100000", None),
        ("", None),
        ("nonsense", None),
        ("100000 0", None),
    ],
)
def test_v2_quota(tmp_path: Path, content: str, expected: float | None) -> None:
    assert cpus(v2(tmp_path, "/", {"cpu.max": content})) == expected


def test_the_least_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    tree = v2(
        tmp_path,
        "/pods/pod1/app",
        {
            "pods/cpu.max": "800000 100000",
            "pods/pod1/cpu.max": "300000 100000",
            "pods/pod1/app/cpu.max": "max 100000",
            "pods/pod2/cpu.max": "100000 100000",
        },
    )
    quota = cpu_quota(tree)
    assert quota is not None
    assert (quota.cpus, quota.file) == (3.0, tree.root / "pods/pod1/cpu.max")


@pytest.mark.parametrize(("quota", "expected"), [("250000", 2.5), ("-1", None)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_v1_quota(tmp_path: Path, mount: str, quota: str, expected: float | None) -> None:
    files = {f"{mount}/a/cpu.cfs_quota_us": quota, f"{mount}/a/cpu.cfs_period_us": "100000"}
    tree = make_tree(tmp_path, "5:name=systemd:/a\n4:cpu,cpuacct:/a\n", files)
    assert cpus(tree) == expected


def test_a_container_that_sees_its_own_group_as_the_mount(tmp_path: Path) -> None:
    files = {
        "cpu/cpu.cfs_quota_us": "200000",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": str(2 * GIB),
        "memory/memory.usage_in_bytes": str(GIB),
    }
    tree = make_tree(tmp_path, "4:memory:/docker/0a1b\n3:cpu:/docker/0a1b\n", files)
    assert (cpus(tree), left(tree)) == (2.0, [(2 * GIB, GIB)])


def test_a_path_that_leads_out_of_the_mount_is_not_followed(tmp_path: Path) -> None:
    tree = v2(tmp_path / "inner", "/../other", {"cpu.max": "100000 100000"})
    (tmp_path / "inner" / "other").mkdir()
    (tmp_path / "inner" / "other" / "cpu.max").write_text("50000 100000")
    assert cpus(tree) == 1.0


def test_v2_memory_without_what_files_are_cached(tmp_path: Path) -> None:
    files = {
        "app/memory.max": str(4 * GIB),
        "app/memory.high": "max",
        "app/memory.current": str(3 * GIB),
        "app/memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}",
    }
    assert left(v2(tmp_path, "/app", files)) == [(4 * GIB, 4 * GIB - 3 * GIB + GIB + GIB // 2)]


def test_memory_high_is_a_limit_too(tmp_path: Path) -> None:
    files = {"memory.max": str(4 * GIB), "memory.high": str(3 * GIB), "memory.current": str(GIB)}
    tree = v2(tmp_path, "/", files)
    (limit,) = memory_limits(tree)
    assert (limit.limit_bytes, limit.available_bytes) == (3 * GIB, 2 * GIB)
    assert limit.file == tree.root / "memory.high"


def test_every_group_above_has_its_own_usage(tmp_path: Path) -> None:
    files = {
        "a/memory.max": str(8 * GIB),
        "a/memory.current": str(7 * GIB),
        "a/b/memory.max": str(4 * GIB),
        "a/b/memory.current": str(GIB),
    }
    assert left(v2(tmp_path, "/a/b", files)) == [(4 * GIB, 3 * GIB), (8 * GIB, GIB)]


def test_usage_above_the_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {"memory.max": str(GIB), "memory.current": str(2 * GIB)}
    assert left(v2(tmp_path, "/", files)) == [(GIB, 0)]


def test_v1_memory_knows_limits_above_what_the_container_sees(tmp_path: Path) -> None:
    stat = f"inactive_file 1\ntotal_inactive_file {GIB}\nhierarchical_memory_limit {3 * GIB}"
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/memory.usage_in_bytes": str(2 * GIB),
        "memory/memory.stat": stat,
    }
    tree = make_tree(tmp_path, "9:memory:/\n", files)
    assert left(tree) == [(3 * GIB, 2 * GIB)]
    assert memory_limits(tree)[0].file == tree.root / "memory/memory.stat"


def test_hybrid_reads_controllers_where_they_are(tmp_path: Path) -> None:
    """v1 has memory, v2, mounted beside it, has cpu."""
    files = {
        "unified/svc/cpu.max": "400000 100000",
        "memory/svc/memory.limit_in_bytes": str(GIB),
        "memory/svc/memory.usage_in_bytes": "0",
    }
    tree = make_tree(tmp_path, "2:memory:/svc\n1:name=systemd:/svc\n0::/svc\n", files)
    assert (cpus(tree), left(tree)) == (4.0, [(GIB, GIB)])


@pytest.mark.parametrize("own", ["", "0::/\n", "garbage\n"])
def test_a_machine_without_groups_has_no_limit(tmp_path: Path, own: str) -> None:
    tree = make_tree(tmp_path, own, {})
    assert (cpus(tree), left(tree)) == (None, [])
    nowhere = CgroupTree(tmp_path / "none", tmp_path / "none")
    assert (cpus(nowhere), left(nowhere)) == (None, [])
