"""Signals of a serving process, as cancellations of its main task."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from deploy.signals import EndSignals
from tests.patience import WITHIN_S

BOTH = (signal.SIGINT, signal.SIGTERM)


class Main:
    """A task that counts its cancellations and goes on until it is told to end."""

    def __init__(self) -> None:
        self.num_cancels = 0
        self.may_end = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.num_cancels += 1


@pytest.fixture
async def main() -> AsyncIterator[Main]:
    main = Main()
    await asyncio.sleep(0)  # lets the task begin
    yield main
    for number in BOTH:
        asyncio.get_running_loop().remove_signal_handler(number)
    main.may_end.set()
    await main.task


async def _turns() -> None:
    """Let the loop read its signals and run what they call."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", BOTH)
async def test_two_signals_cancel_and_later_ones_change_nothing(
    main: Main, number: signal.Signals
) -> None:
    signals = EndSignals(main.task)
    signals.install()
    signals.settle()
    found = []
    for _ in range(4):
        signal.raise_signal(number)
        await _turns()
        found.append(main.num_cancels)
    assert found == [1, 2, 2, 2]


async def test_handlers_that_others_replace_come_back_until_all_is_settled(main: Main) -> None:
    signals = EndSignals(main.task)
    signals.install()
    ours = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    async with asyncio.timeout(WITHIN_S):
        while signal.getsignal(signal.SIGTERM) != ours:
            await asyncio.sleep(0.001)
    signals.settle()
    signal.raise_signal(signal.SIGTERM)
    await _turns()
    assert main.num_cancels == 1
