"""A router's session at a worker, by hand-made sequences of messages."""

import asyncio

from common.messages import FinishReason
from pdserve.errors import Reason
from pdserve.v1 import worker_pb2
from tests.patience import WITHIN_S
from tests.unit.common.rpc.session_side import Line, Side, work


def heard(line: Line) -> list[tuple[str, int, str]]:
    return [(o.request_id, o.index, bytes(o.token_ids).decode()) for o in line.sent]


async def test_a_router_that_attaches_again_gets_what_it_lacks_and_then_the_rest() -> None:
    side = Side()
    line = side.attach(1)
    side.session.submit(work("a"))
    side.session.submit(work("b"))
    await side.say("a", "one")
    await side.say("b", "ONE")
    side.session.detach(line)
    await side.say("a", "two", 3)
    again = side.attach(2, ("b", 1), ("a", 3))
    await side.say("a", "three", 6, ends=True)
    assert heard(again) == [("b", 1, "NE"), ("a", 3, "two"), ("a", 6, "three")]
    assert again.sent[-1].finish_reason is FinishReason.STOP
    assert side.session.num_live == 1
    assert side.worker.cancelled == []


async def test_what_is_not_wanted_any_more_is_cancelled() -> None:
    side = Side()
    line = side.attach(1)
    for name in ("a", "b"):
        side.session.submit(work(name))
    side.session.detach(line)
    side.attach(2, ("b", 0))
    assert side.worker.cancelled == ["a"]
    assert side.session.num_live == 1


async def test_an_end_is_kept_until_the_router_has_heard_of_it() -> None:
    side = Side()
    line = side.attach(1)
    side.session.submit(work("a"))
    await side.say("a", "all", ends=True)
    assert side.session.num_live == 0
    side.session.detach(line)
    assert heard(side.attach(2, ("a", 2))) == [("a", 2, "l")]
    side.session.forget(["a"])
    (lost,) = side.attach(3, ("a", 2)).sent
    assert lost.failure
    assert lost.failure.reason is Reason.WORKER_LOST
    assert side.worker.cancelled == []


async def test_a_request_that_is_submitted_again_runs_once() -> None:
    side = Side()
    line = side.attach(1)
    side.session.submit(work("a"))
    side.session.detach(line)
    again = side.attach(2, ("a", 0), ("never came", 0), resubmitted=("a", "never came"))
    assert again.sent == []
    for name in ("a", "never came"):
        side.session.submit(work(name))
    assert [request.request_id for request in side.worker.requests] == ["a", "never came"]
    await side.say("a", "x", ends=True)
    side.session.submit(work("a"))
    side.session.submit(work("a", attempt=2))
    assert [request.attempt for request in side.worker.requests] == [1, 1, 2]
    assert side.session.num_live == 2


async def test_a_later_stream_takes_the_place_of_an_earlier_one_and_not_the_other_way() -> None:
    side = Side()
    first, second = side.attach(1), side.attach(2)
    assert first.is_closed
    old = worker_pb2.Attach(router_id="me", stream_number=1)
    side.session.submit(work("a"))
    assert not side.session.attach(old, Line())
    side.session.detach(first)  # which is late, and begins no lease
    await side.say("a", "x")
    assert heard(second) == [("a", 0, "x")]
    assert heard(first) == []
    assert side.worker.cancelled == []


async def test_the_end_of_the_lease_cancels_all() -> None:
    side = Side(lease_s=0.01)
    line = side.attach(1)
    side.session.submit(work("a"))
    side.session.detach(line)
    async with asyncio.timeout(WITHIN_S):
        while not side.ended:
            await asyncio.sleep(0.001)
    assert side.worker.cancelled == ["a"]
    assert (side.session.num_live, side.worker._sinks) == (0, [])


async def test_attaching_ends_the_lease() -> None:
    side = Side()
    line = side.attach(1)
    side.session.submit(work("a"))
    side.session.detach(line)
    lease = side.session._lease
    assert lease is not None
    side.attach(2, ("a", 0))
    assert lease.cancelled()
    assert side.ended == []


async def test_a_router_that_leaves_frees_its_work_at_once() -> None:
    side = Side()
    line = side.attach(1)
    side.session.submit(work("a"))
    side.session.end()
    side.session.detach(line)
    assert (side.worker.cancelled, side.ended) == (["a"], ["session"])


async def test_without_work_a_session_ends_with_its_connection() -> None:
    side = Side()
    line = side.attach(1)
    side.session.submit(work("a"))
    side.session.cancel("a")
    side.session.detach(line)
    assert side.ended == ["session"]
