import asyncio
from dataclasses import dataclass

import pytest

from pdserve.errors import UnavailableError
from router.workers.outage import Outage


@dataclass
class Pool:
    """Clock in seconds, and whether a worker is ready."""

    now_s: float = 100.0
    is_ready: bool = True

    def outage(self, max_s: float) -> Outage:
        return Outage(lambda: self.is_ready, max_s, lambda: self.now_s)


def test_an_outage_is_waited_for_from_the_first_look_that_finds_nobody() -> None:
    pool = Pool()
    outage = pool.outage(30.0)
    assert outage.left_s() == 30.0
    pool.is_ready = False
    outage.look()
    pool.now_s += 12.0
    outage.look()
    assert outage.left_s() == 18.0
    pool.now_s += 18.0
    with pytest.raises(UnavailableError, match="no decode worker is ready"):
        outage.left_s()


def test_the_next_outage_is_a_new_one() -> None:
    pool = Pool(is_ready=False)
    outage = pool.outage(30.0)
    outage.look()
    pool.now_s += 40.0
    pool.is_ready = True
    outage.look()
    pool.is_ready = False
    outage.look()
    assert outage.left_s() == 30.0


def test_no_outage_is_waited_for_if_it_may_last_0_s() -> None:
    with pytest.raises(UnavailableError):
        Pool(is_ready=False).outage(0.0).left_s()


async def test_a_worker_that_is_ready_wakes_all_but_those_that_left() -> None:
    pool = Pool(is_ready=False)
    outage = pool.outage(30.0)
    waiting, left = outage.end(), outage.end()
    outage.look()
    assert not waiting.done()
    left.cancel()
    await asyncio.sleep(0)
    pool.is_ready = True
    outage.look()
    assert (waiting.done(), left.cancelled()) == (True, True)
    await asyncio.sleep(0)
    assert outage._waiting == set()
