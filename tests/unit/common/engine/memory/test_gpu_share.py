"""Memory of a GPU, by numbers that a card would give."""

import pytest

from common.engine.memory.gpu_share import GpuRoom, check_share
from common.engine.memory.kv_want import KVWant
from common.engine.memory.worker_share import WorkerShare
from pdserve.errors import SetupError

GIB = 2**30
WHOLE, HALF = WorkerShare(), WorkerShare(gpu=0.5)
WANT = KVWant(1024, GIB // 8, 48 * GIB)


def room(free: float, own: float, share: WorkerShare = WHOLE, weights: float = 0) -> GpuRoom:
    return GpuRoom(80 * GIB, int(free * GIB), int(own * GIB), share, int(weights * GIB))


def test_kv_memory_must_fit_into_the_share_of_a_gpu() -> None:
    check_share(0.5, 80 * GIB, 40.0)
    with pytest.raises(SetupError, match=r"kv_cache_gib 41 exceeds .*0\.5 of 80\.0 GiB"):
        check_share(0.5, 80 * GIB, 41.0)


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (room(60, 16), 60),
        (room(60, 16, WorkerShare(gpu=1.0)), 60),
        (room(60, 16, HALF), 24),  # the rest is another worker's, who has not taken it yet
        (room(20, 16, HALF), 20),
        (room(20, 41, HALF), 0),
    ],
)
def test_what_is_left_keeps_to_the_share(found: GpuRoom, left: int) -> None:
    assert found.left_bytes == left * GIB


def test_what_is_given_back_is_left_again() -> None:
    assert room(20, 16, HALF).taking(-2 * GIB).left_bytes == 22 * GIB


@pytest.mark.parametrize(("free", "kv"), [(50, 45), (60, 48)])
def test_kv_memory_is_a_part_of_what_is_left_and_no_more_than_can_be_used(
    free: int, kv: int
) -> None:
    assert room(free, 16).kv_bytes(0.9, WANT) == kv * GIB


def test_too_little_left_after_the_largest_step_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(SetupError) as caught:
        room(0.1, 79).kv_bytes(0.9, WANT)
    assert str(caught.value).startswith(
        "the model does not fit: one sequence of 1024 tokens 0.12 GiB of KV, and weights, graphs and the "
        "largest step leave 0.10 GiB of the GPU's 80.00, of which engine.gpu_memory_utilization gives 0.9"
    )
    assert "\n" not in str(caught.value)


def test_weights_that_leave_no_room_are_refused_before_they_are_loaded() -> None:
    room(16.2, 0, weights=16).check("auto", WANT)
    with pytest.raises(SetupError) as caught:
        room(16.1, 0, weights=16).check("auto", WANT)
    assert str(caught.value).startswith(
        "the model does not fit: weights take 16.00 GiB, one sequence of 1024 tokens 0.12 GiB of KV, and "
        "this worker may have 16.10 GiB of the GPU's 80.00"
    )
    room(40, 0, weights=16).check(20.0, WANT)
    with pytest.raises(SetupError, match=r"weights take 16\.00 GiB, engine\.kv_cache_gib 30 GiB"):
        room(40, 0, weights=16).check(30.0, WANT)
