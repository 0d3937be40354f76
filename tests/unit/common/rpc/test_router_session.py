"""A router's session at a worker: messages by hand, and random cuts."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from common.messages import FinishReason, SamplingParams, SequenceOutput, StepOutput, WorkRequest
from common.rpc.router_session import RouterSession
from pdserve.errors import Reason
from pdserve.v1 import worker_pb2
from router.workers import messages
from router.workers.open_work import OpenWork
from router.workers.work_stream import WorkStream
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S

NEVER_S = 3600.0


class Line:
    """A connection: what the worker sent on it, of which a cut loses the last part."""

    def __init__(self) -> None:
        self.sent: list[SequenceOutput] = []
        self.is_closed = False

    def put(self, step: StepOutput) -> None:
        self.sent += step.sequences

    def close(self) -> None:
        self.is_closed = True


class Side:
    """A worker and one router's session there."""

    def __init__(self, lease_s: float = NEVER_S) -> None:
        self.worker = ScriptedWorker()
        self.ended: list[str] = []
        self._lease_s = lease_s
        self.session = self.open()

    def open(self) -> RouterSession:
        """Return a new session, as the service makes it for a router that it does not know."""
        self.session = RouterSession(
            self.worker, self._lease_s, lambda: self.ended.append("session")
        )
        return self.session

    def attach(
        self, number: int, *wanted: tuple[str, int], resubmitted: Sequence[str] = ()
    ) -> Line:
        line = Line()
        works = [
            worker_pb2.WantedWork(
                request_id=name, next_index=index, is_resubmitted=name in resubmitted
            )
            for name, index in wanted
        ]
        message = worker_pb2.Attach(router_id="me", stream_number=number, wanted=works)
        assert self.session.attach(message, line)
        return line

    async def say(self, name: str, text: str, index: int = 0, *, ends: bool = False) -> None:
        """Let the engine produce tokens, and the event loop take them."""
        self.worker.say(work(name), text, index, ends=ends)
        await asyncio.sleep(0)


def work(name: str, attempt: int = 1) -> WorkRequest:
    return WorkRequest(name, attempt, (1, 2), SamplingParams(0.0, 0, 100))


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


@pytest.mark.parametrize("seed", range(100))
async def test_random_cuts_lose_and_double_no_token(seed: int) -> None:
    """Cut at any message: before or behind the submit, before or behind the end."""
    draw = random.Random(seed)
    side, open_work = Side(), OpenWork()
    streams = {name: WorkStream(name, 10**6) for name in "abc"[: draw.randint(1, 3)]}
    texts = {name: name * draw.randint(1, 6) for name in streams}
    said = dict.fromkeys(streams, 0)
    number, line, num_read = 1, side.attach(1), 0
    for name, stream in streams.items():
        open_work.add(work(name), stream)
        if draw.random() < 0.7:  # otherwise lost on its way
            side.session.submit(work(name))
    while len(open_work):
        running = sorted(side.worker.live)
        if running and draw.random() < 0.7:
            name = draw.choice(running)
            first, said[name] = said[name], min(said[name] + draw.randint(1, 2), len(texts[name]))
            text = texts[name][first : said[name]]
            await side.say(name, text, first, ends=said[name] == len(texts[name]))
        while num_read < len(line.sent) and draw.random() < 0.5:
            assert open_work.hand_out(line.sent[num_read]) is None
            num_read += 1
        if draw.random() < 0.2:
            if draw.random() < 0.5:  # the worker may learn of the cut by the next stream alone
                side.session.detach(line)
            if side.ended:  # it had nothing to keep
                side.ended.clear()
                side.open()
            number, line, num_read = number + 1, Line(), 0
            message = messages.attach("me", number, open_work.present())
            assert side.session.attach(message.attach, line)
            for left in open_work.present():
                if left.unheard is not None:
                    side.session.submit(left.unheard)
        elif draw.random() < 0.3:
            side.session.forget(open_work.take_ended())
    for name, stream in streams.items():
        assert await text_of(stream) == texts[name]
    assert len(side.worker.requests) == len(streams)
    assert side.worker.cancelled == []
    side.session.forget(open_work.take_ended())
    assert side.session.num_live == 0


async def text_of(stream: WorkStream) -> str:
    """Read a stream whose end has come; check that each output begins where the last one ended."""
    text = ""
    while True:
        output = await stream.next()
        assert output.failure is None
        assert output.index == len(text)
        text += bytes(output.token_ids).decode()
        if output.finish_reason:
            return text
