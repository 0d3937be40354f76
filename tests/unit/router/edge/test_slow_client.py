"""The time that a client has to take each send of a stream."""

import asyncio
import contextlib

import pytest

from pdserve.errors import OverloadedError
from router.edge.slow_client import Delivery

WITHIN_S = 0.05


async def taken() -> None:
    """Stand in for a send that a client takes at once."""


async def never() -> None:
    """Stand in for a send that a client never takes."""
    await asyncio.Event().wait()


async def test_a_send_that_is_not_taken_in_time_ends_the_stream() -> None:
    with pytest.raises(OverloadedError):
        await Delivery(WITHIN_S).deliver(never())
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_each_send_has_the_whole_time() -> None:
    loop, delivery = asyncio.get_running_loop(), Delivery(WITHIN_S)
    await delivery.deliver(taken())
    await asyncio.sleep(WITHIN_S / 2)  # so that the timer of the first send rings too early
    begun_s = loop.time()
    with pytest.raises(OverloadedError):
        await delivery.deliver(never())
    assert loop.time() - begun_s >= WITHIN_S


async def test_a_pause_between_sends_is_nobodys_fault() -> None:
    delivery = Delivery(WITHIN_S)
    for _ in range(2):
        await delivery.deliver(taken())
        await asyncio.sleep(2 * WITHIN_S)


async def test_a_cancellation_from_outside_stays_one() -> None:
    sending = asyncio.create_task(Delivery(60.0).deliver(never()))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_a_failing_send_fails_as_it_is() -> None:
    async def fail() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Delivery(WITHIN_S).deliver(fail())


async def test_a_send_that_takes_its_cancellation_for_an_end_leaves_none_behind() -> None:
    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await never()

    delivery = Delivery(WITHIN_S)
    await delivery.deliver(swallow())
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    with pytest.raises(OverloadedError):
        await delivery.deliver(never())


async def test_many_sends_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, set_times = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def counted(when: float, *rest: object) -> asyncio.TimerHandle:
        set_times.append(when)
        return call_at(when, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_at", counted)
    delivery = Delivery(60.0)
    for _ in range(100):
        await delivery.deliver(taken())
    assert len(set_times) == 1
