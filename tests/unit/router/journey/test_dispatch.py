"""Tests of admission, the wait for a turn, sending, and what a live request gives back."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from common.messages import Role
from common.router_config import RouterConfig, TenantLimits
from pdserve.errors import (
    DuplicateRequestError,
    OverloadedError,
    Reason,
    RequestCancelledError,
    UnavailableError,
)
from router.access.tenant import ANONYMOUS
from router.admission.admission import Outcome
from router.journey.live_request import LiveRequest
from tests.patience import WITHIN_S
from tests.unit.router.journey.routed import NUM_TOKENS, SLOW, Routed, make_job, until


@pytest.fixture
def routed() -> Iterator[Routed]:
    made = Routed()
    yield made
    made.check_nothing_is_held()


async def send(routed: Routed, request: LiveRequest) -> None:
    decision = await routed.dispatcher.wait_for_turn(request)
    routed.dispatcher.send(request, decision)


async def end(request: LiveRequest, outcome: Outcome = Outcome.COMPLETED) -> None:
    for choice in request.choices:
        request.note_output(choice, (7,))
    request.end_with(outcome, Reason.CANCELLED)
    request.close()


async def test_a_duplicate_is_refused_and_the_first_one_goes_on(routed: Routed) -> None:
    first = routed.dispatcher.admit(make_job(), None)
    with pytest.raises(DuplicateRequestError):
        routed.dispatcher.admit(make_job(), None)
    await send(routed, first)
    await end(first)
    assert routed.counts() == {"accepted": 1, "rejected": 1, "completed": 1}


async def test_a_tenant_s_limit_is_asked_before_the_forecast() -> None:
    routed = Routed(RouterConfig(tenant=TenantLimits(max_requests=1)))
    first = routed.dispatcher.admit(make_job("a"), None)
    routed.introduce(routed.prefill, Role.PREFILL, SLOW)
    with pytest.raises(OverloadedError, match="1 requests in flight") as caught:
        routed.dispatcher.admit(make_job("b"), 1.0)
    assert caught.value.reason is Reason.TENANT_LIMIT
    first.close()
    with pytest.raises(OverloadedError, match="after the deadline") as caught:
        routed.dispatcher.admit(make_job("b"), 1.0)
    assert caught.value.reason is Reason.DEADLINE_UNREACHABLE
    assert routed.counts() == {"accepted": 1, "failed": 1, "rejected": 2}
    routed.check_nothing_is_held()


async def test_a_refusal_by_the_forecast_costs_the_tenant_nothing() -> None:
    limits = TenantLimits(tokens_per_minute=NUM_TOKENS)
    routed = Routed(RouterConfig(tenant=limits))
    routed.introduce(routed.prefill, Role.PREFILL, SLOW)
    for _ in range(3):
        with pytest.raises(OverloadedError, match="after the deadline"):
            routed.dispatcher.admit(make_job(), 1.0)
    routed.introduce(routed.prefill, Role.PREFILL)
    routed.dispatcher.admit(make_job(), 1.0).close()
    with pytest.raises(OverloadedError, match="tokens a minute"):
        routed.dispatcher.admit(make_job(), 1.0)
    assert routed.counts() == {"accepted": 1, "failed": 1, "rejected": 4}


async def test_who_would_wait_longer_than_the_limit_is_refused_with_a_time_to_come_again() -> None:
    routed = Routed(RouterConfig(max_wait_s=10.0))
    requests = [routed.dispatcher.admit(make_job(name), None) for name in "ab"]
    await send(routed, requests[0])
    waiting = asyncio.create_task(send(routed, requests[1]))
    await until(lambda: routed.queue.num_waiting == 1)
    routed.introduce(routed.prefill, Role.PREFILL, SLOW)
    with pytest.raises(OverloadedError, match="prompts wait") as caught:
        routed.dispatcher.admit(make_job("c"), None)
    assert caught.value.reason is Reason.QUEUE_FULL
    (wait_s,) = re.findall(r"prompts wait ([0-9.]+) s", caught.value.message)
    # it waits 10 s too long, and has the first place of a line that moves by one a second
    assert 0.4 < caught.value.retry_after_s - (float(wait_s) - 10.0) < 1.6
    assert routed.queue.num_waiting == 1
    await end(requests[0])
    await waiting
    await end(requests[1])
    assert routed.counts() == {"accepted": 2, "completed": 2, "rejected": 1}
    routed.check_nothing_is_held()


async def test_the_next_turn_comes_with_the_first_token(routed: Routed) -> None:
    first, second = (routed.dispatcher.admit(make_job(name), None) for name in "ab")
    await send(routed, first)
    waiting = asyncio.create_task(send(routed, second))
    await until(lambda: routed.queue.num_waiting == 1)
    first.first_token(first.choices[0])
    await waiting
    assert routed.decode.num_live == 2
    assert routed.pool.sent_prompts.totals("p") == (1, NUM_TOKENS)
    await end(first)
    await end(second)


async def test_prompts_are_sent_while_the_worker_has_less_than_its_window(routed: Routed) -> None:
    """The window holds 100 tokens; a prompt counts there as soon as it is sent."""
    requests = [routed.dispatcher.admit(make_job(n, num_tokens=40), None) for n in "abcd"]
    for request in requests[:3]:
        await send(routed, request)
    waiting = asyncio.create_task(send(routed, requests[3]))
    await until(lambda: routed.queue.num_waiting == 1)
    assert routed.pool.sent_prompts.totals("p") == (3, 120)
    await end(requests[0])
    await waiting
    for request in requests[1:]:
        await end(request)


async def test_after_a_wait_the_workers_are_chosen_anew(routed: Routed) -> None:
    first, second = (routed.dispatcher.admit(make_job(name), None) for name in "ab")
    await send(routed, first)
    waiting = asyncio.create_task(routed.dispatcher.wait_for_turn(second))
    await until(lambda: routed.queue.num_waiting == 1)
    routed.pool.drain("p")
    await end(first)
    decision = await waiting
    assert (decision.route.prefill, decision.route.decode) == (None, "d")
    assert routed.decisions.entry(second.job.key).decision is decision
    second.close()


async def test_a_deadline_that_cannot_be_met_after_the_wait_ends_the_request(
    routed: Routed,
) -> None:
    first = routed.dispatcher.admit(make_job("a"), None)
    second = routed.dispatcher.admit(make_job("b"), WITHIN_S)
    await send(routed, first)
    waiting = asyncio.create_task(send(routed, second))
    await until(lambda: routed.queue.num_waiting == 1)
    routed.introduce(routed.prefill, Role.PREFILL, SLOW)
    await end(first)
    with pytest.raises(OverloadedError) as caught:
        await waiting
    assert caught.value.reason is Reason.DEADLINE_UNREACHABLE
    assert caught.value.retry_after_s > 1000
    second.close()
    assert routed.counts() == {"accepted": 2, "completed": 1, "failed": 1}


async def test_a_worker_that_is_gone_when_it_is_sent_to_ends_the_request(routed: Routed) -> None:
    request = routed.dispatcher.admit(make_job(num_choices=2), None)
    decision = await routed.dispatcher.wait_for_turn(request)
    routed.decode.is_connected = False
    with pytest.raises(UnavailableError) as caught:
        routed.dispatcher.send(request, decision)
    assert caught.value.reason is Reason.WORKER_LOST
    request.close()


@pytest.mark.parametrize("num_choices", [1, 3])
@pytest.mark.parametrize("stage", range(5))
async def test_close_gives_back_what_is_held_at_any_stage_and_once(
    routed: Routed, stage: int, num_choices: int
) -> None:
    request = routed.dispatcher.admit(make_job(num_choices=num_choices), None)
    if stage > 0:
        decision = await routed.dispatcher.wait_for_turn(request)
    if stage > 1:
        routed.dispatcher.send(request, decision)
    if stage > 2:
        request.note_output(request.choices[-1], (7,))
    if stage > 3:
        request.end_choice(request.choices[-1])
    assert routed.admission.num_in_flight == 1
    for _ in range(2):
        request.close()
        routed.check_nothing_is_held()
    kinds = [kind for kind, _ in routed.sent()]
    num_sent = num_choices if stage > 1 else 0
    assert (kinds.count("submit"), kinds.count("cancel")) == (num_sent, num_sent)
    assert routed.counts() == {"accepted": 1, "failed": 1}


async def test_a_cancel_before_the_turn_is_asked_for_ends_the_request_at_its_worker(
    routed: Routed,
) -> None:
    request = routed.dispatcher.admit(make_job(), None)
    routed.dispatcher.cancel(ANONYMOUS, "r")
    await send(routed, request)
    failure = (await request.choices[0].stream.next()).failure
    assert failure is not None
    assert failure.reason is Reason.CANCELLED
    request.close()
    assert [kind for kind, _ in routed.sent()] == ["submit", "cancel"]


async def test_a_cancelled_wait_raises_in_the_queue(routed: Routed) -> None:
    first, second = (routed.dispatcher.admit(make_job(name), None) for name in "ab")
    await send(routed, first)
    waiting = asyncio.create_task(send(routed, second))
    await until(lambda: routed.queue.num_waiting == 1)
    routed.dispatcher.cancel(ANONYMOUS, "b")
    with pytest.raises(RequestCancelledError):
        await waiting
    second.close()
    await end(first)
    assert routed.counts() == {"accepted": 2, "completed": 1, "failed": 1}
