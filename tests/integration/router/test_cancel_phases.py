"""Requests left in any way, in any phase: all resources are freed within one chunk or step.

Gates hold an engine or the KV stream, so that the request stays in its phase until it is left. A
question behind the cancel in an engine's mailbox is answered before the engine's next step.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from common.messages import WorkerLoad
from tests.integration.support.in_process_router import (
    ENDS,
    LONG,
    NUM_TOKENS,
    WINDOW,
    Routed,
    end_of,
    read_to_the_end,
    routed,
)
from tests.integration.support.in_process_workers import held, load_now
from tests.integration.support.kv_faults import Gate, has_mail, held_engine, hold_at
from tests.unit.common.engine.tiny_models import VOCAB

pytestmark = pytest.mark.asyncio(loop_scope="module")

Begin = Callable[[int], Any]  # starts the request with this max_tokens; returns its call
Leave = Callable[[Any], Awaitable[None]]
# other requests cancelled, other requests completed, and prompt tokens that ran
Account = tuple[int, int, int]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Routed]:
    async with routed(tmp_path_factory.mktemp("llama")) as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module", scope="module", autouse=True)
async def undisturbed(rig: Routed) -> list[int]:
    """Return an answer from before any request was left."""
    return await _answer(rig, "before")


async def queued_in_the_router(rig: Routed, begin: Begin, leave: Leave) -> Account:
    """Leave behind a prompt that fills the window; no worker ever hears of the request."""
    with held_engine(rig.workers.prefill):
        # of equal priority, a shorter prompt overtakes it if it comes soon enough after it
        other = rig.generate(rig.prompt(WINDOW), 1, priority=-1)
        await rig.until(lambda: has_mail(rig.workers.prefill), "asked for")
        call = begin(1)
        await rig.in_flight(2)
        submitted = len(rig.workers.decode._engine._live)
        await leave(call)
        await rig.in_flight(1)
        assert submitted == len(rig.workers.decode._engine._live) == 1
    await read_to_the_end(other)
    return 0, 1, WINDOW


async def queued_on_prefill(rig: Routed, begin: Begin, leave: Leave) -> Account:
    with held_engine(rig.workers.prefill):
        call = begin(1)
        await rig.until(lambda: has_mail(rig.workers.prefill), "asked for")
        await leave(call)
        await rig.until(lambda: held(rig.workers.decode) == 0, "free on decode")
        await rig.until(lambda: has_mail(rig.workers.prefill, 2), "told")
    return 0, 0, 0


async def prefilling(rig: Routed, begin: Begin, leave: Leave) -> Account:
    """Leave while the first of three chunks runs; no other follows."""
    gate = Gate()
    unsubscribe = rig.workers.prefill.subscribe(lambda _: gate.hold())
    call = begin(1)
    await asyncio.to_thread(gate.wait_reached)
    await leave(call)
    await rig.until(lambda: held(rig.workers.decode) == 0, "free on decode")
    unsubscribe()
    gate.open()
    return 0, 0, 16


async def between(rig: Routed, begin: Begin, leave: Leave) -> Account:
    """Leave when the prompt has run and nothing of it has reached decode."""
    before = load_now(rig.workers.prefill).prefill_tokens
    gate = Gate()
    rig.valve.rewrite = hold_at(0, gate)
    call = begin(1)
    await asyncio.to_thread(gate.wait_reached)
    await rig.until(
        lambda: load_now(rig.workers.prefill).prefill_tokens == before + NUM_TOKENS, "computed"
    )
    await leave(call)
    await rig.until(lambda: held(rig.workers.decode) == 0, "free on decode")
    gate.open()
    return 0, 0, NUM_TOKENS


async def in_transfer(rig: Routed, begin: Begin, leave: Leave) -> Account:
    """Leave when token 1 was sent and the last chunk is under way."""
    gate = Gate()
    rig.valve.rewrite = hold_at(3, gate)
    call = begin(LONG)
    await call.read()
    await asyncio.to_thread(gate.wait_reached)
    await leave(call)
    await rig.until(lambda: held(rig.workers.decode) == 0, "free on decode")
    gate.open()
    return 0, 0, NUM_TOKENS


async def waiting_on_decode(rig: Routed, begin: Begin, leave: Leave) -> Account:
    """Leave while another request has the only place."""
    running = rig.generate(rig.prompt(), LONG)
    for _ in range(2):
        await running.read()
    call = begin(1)
    await rig.until(lambda: load_now(rig.workers.decode).num_waiting == 1, "waiting")
    load = await _leave_between_two_steps(rig, call, leave)
    assert (load.num_waiting, load.num_running) == (0, 1)
    running.cancel()
    await end_of(running)
    return 1, 0, NUM_TOKENS


async def decoding(rig: Routed, begin: Begin, leave: Leave) -> Account:
    call = begin(LONG)
    for _ in range(5):
        await call.read()
    load = await _leave_between_two_steps(rig, call, leave)
    assert (load.num_running, load.blocks_free) == (0, load.blocks_total)
    return 0, 0, NUM_TOKENS


async def _leave_between_two_steps(rig: Routed, call: Any, leave: Leave) -> WorkerLoad:
    """Return the decode worker's load after it was told, before its next step."""
    decode, after = rig.workers.decode, list[WorkerLoad]()
    with held_engine(decode) as before:
        await leave(call)
        await rig.until(lambda: has_mail(decode), "told")
        decode._loop.post(lambda: after.append(decode._engine.load()))
    await rig.until(lambda: bool(after), "heard")
    assert after[0].steps == before.steps
    return after[0]


PHASES = (
    queued_in_the_router,
    queued_on_prefill,
    prefilling,
    between,
    in_transfer,
    waiting_on_decode,
    decoding,
)


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
async def test_leaving_frees_everything_within_a_chunk_or_step(
    rig: Routed, phase: Callable[[Routed, Begin, Leave], Awaitable[Account]], way: str
) -> None:
    rig.valve.rewrite = iter
    # the router would refuse a deadline that it expects to pass in a hold-up like the last test's
    await rig.forget_delays()
    prefill, before = rig.workers.prefill, await rig.stack.until_idle()
    tokens_before = load_now(prefill).prefill_tokens
    name = f"{phase.__name__}:{way}"
    others_cancelled, others_completed, num_tokens = await phase(
        rig, partial(rig.begin, name, way), partial(rig.leave, name, way)
    )
    after = await rig.stack.until_idle()
    await asyncio.to_thread(rig.workers.check_at_rest)
    assert load_now(prefill).prefill_tokens - tokens_before == num_tokens
    assert after.cancelled - before.cancelled == 1 + others_cancelled
    assert after.completed - before.completed == others_completed
    assert (after.failed, after.rejected) == (0, 0)
    assert after.accepted == after.completed + after.cancelled


async def test_the_next_request_runs_as_if_nothing_had_been(
    rig: Routed, undisturbed: list[int]
) -> None:
    """Run after the tests above; its own salt makes prefill compute and ship it again."""
    rig.valve.rewrite = iter
    prefill = load_now(rig.workers.prefill).prefill_tokens
    assert await _answer(rig, "after") == undisturbed
    assert load_now(rig.workers.prefill).prefill_tokens - prefill == NUM_TOKENS
    await asyncio.to_thread(rig.workers.check_at_rest)


async def _answer(rig: Routed, salt: str) -> list[int]:
    prompt = [5 * place % VOCAB for place in range(NUM_TOKENS)]
    parts = await read_to_the_end(rig.generate(prompt, 12, salt=salt))
    return [token for part in parts for token in part.token_ids]
