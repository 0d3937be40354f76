"""One round: streams on two decode workers, one of which is killed, and a control."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.fleet import DECODE, READY, Fleet
from benchmarks.chaos.questions import Question
from benchmarks.death_beside.spans import Round, Times, gone_on_s, make_round
from pdserve.errors import PdserveError
from pdserve.v1 import admin_pb2, inference_pb2

_MAX_TOKENS = 7000  # no stream ends in its round
_BACK_WITHIN_S, _BEGUN_WITHIN_S, _TIMEOUT_S = 300.0, 60.0, 3600.0
_LOOK_S = 0.25  # seldom: each look is work for the router
_SETTLED_S = 5.0  # meanwhile the worker that came back takes its memory
_WORDS = "The river carried a lantern past the quiet winter market, and nobody could say why. "


async def measure_round(fleet: Fleet, number: int, streams: int, span_s: float) -> Round:
    """Kill one of the two decode workers under streams, and look at those of the other one."""
    names = [f"round-{number}-{place}" for place in range(streams)]
    askings = [_asking(name, f"{name}: {_WORDS}") for name in names]
    async with _running(fleet, askings):
        await _until_begun(askings)
        victim, other = sorted(await fleet.workers(DECODE), key=lambda worker: worker.name)
        beside = await fleet.askings_at(other.name)
        if not beside or len(beside) == streams:
            raise RuntimeError(f"{other.name} has {len(beside)} of the {streams} streams")
        moving = [asking for asking in askings if asking not in beside]
        begin_s = time.monotonic()
        await asyncio.sleep(span_s)
        again = [_again(asking) for asking in moving]
        kill_s = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        await _until_back(fleet, victim)
        back_s = time.monotonic()
        moved_s = max(gone_on_s(asking, kill_s, back_s) for asking in moving)
        await asyncio.sleep(_SETTLED_S)
        after_s = time.monotonic()
        await asyncio.sleep(back_s - moved_s)
        control_s = await _control(fleet, victim, moving, again, moved_s - kill_s)
    if errors := [one.error for one in (*askings, *again) if one.error]:
        raise RuntimeError(errors[0])
    await fleet.until_at_rest(_BEGUN_WITHIN_S)
    return make_round(beside, Times(begin_s, kill_s, moved_s, back_s, after_s, control_s))


async def _control(
    fleet: Fleet,
    victim: admin_pb2.WorkerStatus,
    moved: Sequence[Asking],
    again: Sequence[Asking],
    seconds: float,
) -> float:
    """Bring the load of the move once more, without a death; return when it came.

    The worker that came back leaves, and the streams that moved end. So the rest is as it was after the
    kill: requests with the same prompts go where those streams went.
    """
    await fleet.client.drain(victim.name, timeout_s=_BEGUN_WITHIN_S)
    await asyncio.gather(*(fleet.client.cancel(asking.request_id) for asking in moved))
    await _until_ended(fleet, moved)
    control_s = time.monotonic()
    async with _running(fleet, again):
        await asyncio.sleep(seconds)
        await _until_begun(again)
    return control_s


@contextlib.asynccontextmanager
async def _running(fleet: Fleet, askings: Sequence[Asking]) -> AsyncGenerator[None]:
    """Ask all at once, and leave them at the end."""
    fleet.running |= {asking.request_id: asking for asking in askings}
    tasks = [asyncio.create_task(asking.run(fleet.client, _TIMEOUT_S)) for asking in askings]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _asking(name: str, prompt: str) -> Asking:
    sampling = inference_pb2.SamplingParams(
        max_tokens=_MAX_TOKENS, ignore_eos=True, temperature=0.0
    )
    return Asking(Question("greedy", prompt, sampling), name)


def _again(asking: Asking) -> Asking:
    """Return a new question, with the prompt and the output of this one so far as its prompt."""
    so_far = "".join(choice.text for choice in asking.completion.choices)
    return _asking(f"{asking.request_id}-again", asking.question.prompt + so_far)


async def _until_begun(askings: Sequence[Asking]) -> None:
    async with asyncio.timeout(_BEGUN_WITHIN_S):
        while not all(asking.times_s or asking.error for asking in askings):
            await asyncio.sleep(0.05)


async def _until_ended(fleet: Fleet, askings: Sequence[Asking]) -> None:
    """Wait until no worker has a block of these. Raises TimeoutError."""
    names = [worker.name for worker in await fleet.workers()]
    async with asyncio.timeout(_BEGUN_WITHIN_S):
        while any(asking in askings for asking in await fleet.askings_at(*names)):
            await asyncio.sleep(_LOOK_S)


async def _until_back(fleet: Fleet, victim: admin_pb2.WorkerStatus) -> None:
    """Wait until another process serves in the place of one that died. Raises TimeoutError."""
    async with asyncio.timeout(_BACK_WITHIN_S):
        while True:
            with contextlib.suppress(PdserveError):  # the router is busy
                workers = await fleet.workers(DECODE)
                found = {one.name: one for one in workers if one.state == READY}.get(victim.name)
                if found is not None and found.incarnation != victim.incarnation:
                    return
            await asyncio.sleep(_LOOK_S)
