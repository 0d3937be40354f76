from pathlib import Path

import pytest

from common.cgroup import CgroupTree
from common.engine.build import build_engine
from common.engine.memory.host_budget import HostRoom
from common.engine.memory.kv_want import KVWant
from common.engine.memory.worker_share import WorkerShare
from common.machine import Memory, read_memory
from pdserve.errors import SetupError
from tests.unit.common.cgroup_trees import GIB, v2
from tests.unit.common.engine.tiny_models import engine_config, save_model
from tests.unit.common.engine.weights.edited import drop, edit

MIB = 2**20
WHOLE = WorkerShare()
TINY = KVWant(512, MIB, 32 * MIB)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def container(tmp_path: Path) -> CgroupTree:
    """2 GiB, of which 0.5 are used."""
    files = {"memory.max": str(2 * GIB), "memory.current": str(GIB // 2)}
    return v2(tmp_path / "groups", "/", files)


@pytest.mark.parametrize("kv_cache_gib", [0.5, 1.05])
def test_what_fits_the_container_passes(
    llama: Path, container: CgroupTree, kv_cache_gib: float
) -> None:
    room = HostRoom.read(llama, engine_config(), WHOLE, container)
    assert room.kv_bytes(kv_cache_gib, TINY) == int(kv_cache_gib * GIB)


def test_what_does_not_fit_is_named_with_limit_and_remedy(
    llama: Path, container: CgroupTree
) -> None:
    # 1.5 available less 0.1, 0.3 for libraries, next to nothing for weights
    with pytest.raises(SetupError) as caught:
        HostRoom.read(llama, engine_config(), WHOLE, container).kv_bytes(1.125, TINY)
    assert "engine.kv_cache_gib 1.125 does not fit" in str(caught.value)
    assert f"1.50 available of 2.00, limited by {container.root}/memory.max" in str(caught.value)
    assert caught.value.remedy == (
        "set engine.kv_cache_gib to 1.10 or less, start fewer workers, "
        "or raise the container's memory limit"
    )


def test_a_worker_keeps_to_its_share(llama: Path, container: CgroupTree) -> None:
    room = HostRoom.read(llama, engine_config(), WorkerShare(3 * GIB // 4), container)
    room.check(0.4, TINY)
    with pytest.raises(SetupError, match=r"may have 0\.75 GiB") as caught:
        room.check(0.5, TINY)
    assert "set engine.kv_cache_gib to 0.45 or less" in caught.value.remedy


def test_where_not_even_the_weights_fit_no_smaller_kv_memory_is_advised(llama: Path) -> None:
    with pytest.raises(SetupError) as caught:
        build_engine(llama, engine_config(), num_threads=1, share=WorkerShare(GIB // 4))
    assert caught.value.remedy.startswith("start fewer workers")


# memory in GiB: of the machine, the worker's part of what is usable, workers, weights and libraries; then KV
@pytest.mark.parametrize(
    ("total", "given", "num_workers", "fixed", "kv"),
    [
        (16, None, 1, 1, 4),  # a quarter of the machine
        (16, 7, 2, 1, 2),  # of two workers together
        (16, 3, 2, 1, 1),  # half of what the weights leave
        (
            16,
            None,
            4,
            3,
            0.4,
        ),  # in a cluster nobody divides: 16 * 0.95 / 4, less 3, and half of that
        (16, 3.6, 4, 3.4, 0.1875),  # one sequence, though it is more than half
        (400, None, 1, 1, 48),  # as many sequences as may run, each with the whole context
    ],
)
def test_the_memory_for_kv_follows_from_the_machine(
    total: float, given: float | None, num_workers: int, fixed: float, kv: float
) -> None:
    share = WorkerShare(None if given is None else int(given * GIB), num_workers)
    memory = Memory(int(total * GIB), int(total * GIB))
    want = KVWant(1024, int(0.1875 * GIB), 48 * GIB)
    found = HostRoom(memory, share, fixed * GIB).kv_bytes("auto", want)
    assert found == pytest.approx(kv * GIB, abs=64)


def test_a_restarted_worker_gets_as_much_as_before() -> None:
    """Four workers of 3.4 GiB each; when one starts again, the others hold their memory already."""
    share, want = WorkerShare(None, 4), KVWant(1024, GIB // 64, 48 * GIB)
    total = 16 * GIB
    first = HostRoom(Memory(total, total), share, 3.4 * GIB).kv_bytes("auto", want)
    others = int(3 * (3.4 * GIB + first))
    again = HostRoom(Memory(total, total - others), share, 3.4 * GIB).kv_bytes("auto", want)
    assert again == first


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    memory = Memory(16 * GIB, 13 * GIB, tmp_path / "memory.max")
    room = HostRoom(memory, WorkerShare(6 * GIB, 2), 5.95 * GIB)
    with pytest.raises(SetupError) as caught:
        room.check("auto", KVWant(1024, GIB // 8, 48 * GIB))
    assert str(caught.value).startswith(
        "the model does not fit: weights and libraries take 5.95 GiB, one sequence of 1024 tokens "
        "0.12 GiB of KV, and a worker may have 6.00 GiB (13.00 available of 16.00, limited by "
    )
    assert caught.value.remedy == "start fewer workers, or raise the container's memory limit"
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_loaded(tmp_path: Path) -> None:
    """Loading them would say that one is missing."""
    folder = save_model(tmp_path, "llama")
    edit(folder, drop("model.norm.weight"))
    config = engine_config(kv_cache_gib="auto")
    with pytest.raises(SetupError, match=r"the model does not fit: .* 512 tokens 0\.00 GiB of KV"):
        build_engine(folder, config, num_threads=1, share=WorkerShare(GIB // 4))


def test_workers_of_a_machine_may_take_equal_parts_of_it(container: CgroupTree) -> None:
    memory = read_memory(container)
    assert WHOLE.most_bytes(memory) == memory.usable_bytes
    assert WorkerShare(num_workers=4).most_bytes(memory) == memory.largest_bytes // 4
    assert WorkerShare(memory_bytes=MIB, num_workers=4).most_bytes(memory) == MIB
