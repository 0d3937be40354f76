"""Random cuts between a router and a worker: every token comes once, in order."""

import random

import pytest

from router.workers import messages
from router.workers.open_work import OpenWork
from router.workers.work_stream import WorkStream
from tests.unit.common.rpc.session_side import Line, Side, work


class Cutter:
    """A worker and a router that loses its connection at random: at any message, or between."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.side, self.open_work = Side(), OpenWork()
        names = "abc"[: self.draw.randint(1, 3)]
        self.streams = {name: WorkStream(name, 10**6) for name in names}
        self.texts = {name: name * self.draw.randint(1, 6) for name in names}
        self._num_said = dict.fromkeys(names, 0)
        self._number, self._line, self._num_read = 1, self.side.attach(1), 0

    def submit(self) -> None:
        """Submit all; some are lost on their way."""
        for name, stream in self.streams.items():
            self.open_work.add(work(name), stream)
            if self.draw.random() < 0.7:
                self.side.session.submit(work(name))

    async def produce(self) -> None:
        """Let the engine produce some tokens of one request."""
        running = sorted(self.side.worker.live)
        if running:
            name = self.draw.choice(running)
            text, first = self.texts[name], self._num_said[name]
            end = self._num_said[name] = min(first + self.draw.randint(1, 2), len(text))
            await self.side.say(name, text[first:end], first, ends=end == len(text))

    def read(self) -> None:
        """Let the router read a part of what was sent."""
        while self._num_read < len(self._line.sent) and self.draw.random() < 0.5:
            assert self.open_work.hand_out(self._line.sent[self._num_read]) is None
            self._num_read += 1

    def acknowledge(self) -> None:
        """Say which ends have come."""
        self.side.session.forget(self.open_work.take_ended())

    def cut(self) -> None:
        """Lose what is unread and attach again; at times the worker learns of it by that alone."""
        side = self.side
        if self.draw.random() < 0.5:
            side.session.detach(self._line)
        if side.ended:  # it had nothing to keep
            side.ended.clear()
            side.open()
        self._number, self._line, self._num_read = self._number + 1, Line(), 0
        message = messages.attach("me", self._number, self.open_work.present())
        assert side.session.attach(message.attach, self._line)
        for left in self.open_work.present():
            if left.unheard is not None:
                side.session.submit(left.unheard)


@pytest.mark.parametrize("seed", range(100))
async def test_random_cuts_lose_and_double_no_token(seed: int) -> None:
    cutter = Cutter(seed)
    cutter.submit()
    while len(cutter.open_work):
        await cutter.produce()
        cutter.read()
        if cutter.draw.random() < 0.2:
            cutter.cut()
        elif cutter.draw.random() < 0.3:
            cutter.acknowledge()
    for name, stream in cutter.streams.items():
        assert await text_of(stream) == cutter.texts[name]
    worker = cutter.side.worker
    assert (len(worker.requests), worker.cancelled) == (len(cutter.streams), [])
    cutter.acknowledge()
    assert cutter.side.session.num_live == 0


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
