"""Tests of what the router keeps of resumable requests, by tenant."""

import asyncio
from contextlib import aclosing

import pytest

from common.router_config import RouterConfig
from pdserve.errors import (
    NotFoundError,
    OverloadedError,
    RequestCancelledError,
    RequestError,
    UnavailableError,
)
from pdserve.v1 import inference_pb2
from router.access.tenant import RequestKey, Tenant
from router.edge.resume import Responses, Resumables

ACME, ZETA = Tenant("acme"), Tenant("zeta")


async def saying(number: int, error: RequestError | None = None) -> Responses:
    for sequence in range(number):
        yield inference_pb2.GenerateResponse(sequence=sequence)
    if error is not None:
        raise error


async def run(
    resumables: Resumables,
    tenant: Tenant,
    name: str,
    number: int,
    error: RequestError | None = None,
) -> int:
    """A request to its end; how many messages it gave."""
    request = inference_pb2.GenerateRequest(request_id=name)
    responses = saying(number, error)
    stream = resumables.start(RequestKey(tenant, name), request, responses, None)
    return await count(stream)


async def count(stream: Responses) -> int:
    number = 0
    async with aclosing(stream):
        async for _ in stream:
            number += 1
    await asyncio.sleep(0)  # the run's task ends
    return number


def make(**config: int) -> Resumables:
    return Resumables(RouterConfig(resume_grace_s=600.0, **config))


async def test_a_request_that_is_refused_takes_nothing_from_the_one_before() -> None:
    resumables = make()
    await run(resumables, ACME, "r", 3)
    with pytest.raises(OverloadedError):
        await run(resumables, ACME, "r", 0, OverloadedError("full", retry_after_s=1.0))
    assert await count(resumables.resume(ACME, "r", 0)) == 3
    with pytest.raises(UnavailableError):  # let in, it has replaced it
        await run(resumables, ACME, "r", 0, UnavailableError("no decode worker is ready"))
    with pytest.raises(NotFoundError):
        resumables.resume(ACME, "r", 0)
    await resumables.close()


async def test_a_call_that_is_sent_again_reads_what_runs_or_has_ended() -> None:
    resumables, key = make(), RequestKey(ACME, "r")
    request = inference_pb2.GenerateRequest(request_id="r")
    other = inference_pb2.GenerateRequest(request_id="r", text="other")
    assert resumables.read_again(key, request) is None
    stream = resumables.start(key, request, saying(3), None)
    running = resumables.read_again(key, request)
    assert running is not None
    assert [await count(each) for each in (stream, running)] == [3, 3]
    ended = resumables.read_again(key, request)
    assert ended is not None
    assert await count(ended) == 3
    assert resumables.read_again(key, other) is None
    assert resumables.read_again(RequestKey(ZETA, "r"), request) is None


async def test_a_tenant_with_many_that_ended_loses_its_own_oldest() -> None:
    resumables = make(max_inflight_requests=3)
    await run(resumables, ZETA, "z", 1)
    for number in range(5):
        await run(resumables, ACME, f"r{number}", 1)
    assert [key.request_id for key in resumables._ended] == ["z", "r2", "r3", "r4"]
    await resumables.close()


async def test_what_a_tenant_s_ended_requests_keep_is_bounded() -> None:
    """16 buffers of 4 messages."""
    resumables = make(resume_buffer_messages=4)
    await run(resumables, ZETA, "z", 1)
    for number in range(40):
        await run(resumables, ACME, f"r{number}", 3)
    kept = [key.request_id for key in resumables._ended if key.tenant == ACME]
    assert kept == [f"r{number}" for number in range(40 - 64 // 3, 40)]
    assert resumables.num_held == len(kept) + 1
    await resumables.close()


async def waiting(closed: list[str], name: str) -> Responses:
    try:
        yield inference_pb2.GenerateResponse()
        await asyncio.Event().wait()
    finally:
        closed.append(name)


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_client_that_comes_back_with_its_output_ends_the_run_before(
    has_begun: bool,
) -> None:
    resumables, closed = make(), list[str]()
    key = RequestKey(ACME, "r")
    first = inference_pb2.GenerateRequest(request_id="r", resumable=True)
    again = inference_pb2.GenerateRequest(request_id="r", resumable=True)
    again.received.add(token_ids=[1])
    stream = resumables.start(key, first, waiting(closed, "first"), None)
    if has_begun:
        await anext(stream)
    await resumables.displace(key, first)
    assert resumables.is_running(key), "the same call again reads it"
    await resumables.displace(RequestKey(ZETA, "r"), again)
    assert resumables.is_running(key), "another tenant's request of that id is not ended"
    await resumables.displace(key, again)
    assert (resumables.is_running(key), closed) == (False, ["first"])
    with pytest.raises(RequestCancelledError, match="goes on with a later call"):
        await count(stream)
    second = resumables.start(key, again, waiting(closed, "second"), None)
    await anext(second)
    await resumables.displace(key, again)
    await resumables.close()
    assert closed == ["first", "second"]
    await second.aclose()
