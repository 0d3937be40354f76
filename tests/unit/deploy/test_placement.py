from pathlib import Path

import pytest

from common.cgroup import CpuQuota
from common.machine import Cores
from deploy.placement import Share, share_cores, share_free_cores
from pdserve.errors import PreconditionError, Reason


def test_workers_that_join_pinned_ones_get_free_cores_of_their_own() -> None:
    like = share_cores(2, Cores(tuple(range(7))), "auto")[0]
    assert like == Share(3, (0, 1, 2))
    assert share_free_cores(1, [0, 1, 2, 6], like) == [Share(3, (0, 1, 2))]
    assert share_free_cores(2, [0, 1, 2, 6], like) == [Share(2, (0, 1)), Share(2, (2, 6))]
    assert share_free_cores(1, [6], like) == [Share(1, (6,))]


def test_too_few_free_cores_are_refused_with_both_numbers() -> None:
    with pytest.raises(PreconditionError, match=r"2 new workers.*1 are free.*pin: off") as caught:
        share_free_cores(2, [6], Share(1, (0,)))
    assert caught.value.reason is Reason.SCALE_REFUSED


def test_beside_unpinned_workers_nobody_needs_a_free_core() -> None:
    like = share_cores(2, Cores((0, 1)), "off")[0]
    assert share_free_cores(3, [], like) == [Share(1, ())] * 3


def test_under_a_quota_threads_are_shared_out_and_nobody_is_pinned() -> None:
    cores = Cores(tuple(range(64)), CpuQuota(4.0, Path("cpu.max")))
    assert share_cores(2, cores, "auto") == [Share(2, ())] * 2
    assert share_cores(5, cores, "auto") == [Share(1, ())] * 5


def test_a_quota_of_all_cores_leaves_them_pinned() -> None:
    cores = Cores((8, 9), CpuQuota(2.0, Path("cpu.max")))
    assert share_cores(2, cores, "auto") == [Share(1, (8,)), Share(1, (9,))]
