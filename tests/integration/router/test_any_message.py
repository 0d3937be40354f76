"""Arbitrary requests: each gets an answer or a documented refusal, and leaves nothing behind."""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2

from common.messages import WorkRequest
from common.profile import WorkerProfile
from common.router_config import RouterConfig, TenantLimits
from pdserve.v1 import admin_pb2, inference_pb2
from tests.examples import examples
from tests.integration.support.any_message import METHODS, any_message, path
from tests.integration.support.guarded_router import reason_of
from tests.integration.support.router_stack import Stack, collect, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.repository.sources import ROOT
from tests.unit.router.tiny_tokenizer import write_folder

_ROW = re.compile(r"\| `([A-Z_]+)` \| ([A-Z_]+) \|")
DOCUMENTED = set(_ROW.findall((ROOT / "docs" / "use" / "errors.md").read_text("utf-8")))
NOT_HERE = {"Embed", "FlushCache", "StartProfile", "StopProfile", "SubscribeKvEvents"}
# at most 40 prompt tokens are under way, and as many requests of a tenant
WINDOW = 40
SMALL_STEPS = WorkerProfile(max_batch_tokens=WINDOW // 4)
SEEDED = settings(derandomize=True, deadline=None, database=None)
LIMITS = RouterConfig(tenant=TenantLimits(max_requests=WINDOW), resume_grace_s=0.1)
# arbitrary messages are hardly ever valid, so most are changes of these
_GOOD: dict[str, list[Message]] = {
    "pdserve.v1.GenerateRequest": [
        inference_pb2.GenerateRequest(text="hi"),
        inference_pb2.GenerateRequest(
            chat=inference_pb2.ChatPrompt(
                messages=[inference_pb2.ChatMessage(role="user", content="hi")]
            )
        ),
    ],
    "vllm.grpc.engine.GenerateRequest": [vllm_pb2.GenerateRequest(request_id="v", text="hi")],
    "pdserve.v1.TokenizeRequest": [inference_pb2.TokenizeRequest(text="hi")],
}


@dataclass(frozen=True, slots=True)
class Target:
    """A router with one worker that echoes, unless it is told to be silent."""

    runner: asyncio.Runner
    stack: Stack
    channel: Any  # calls bytes
    worker: ScriptedWorker
    silent: threading.Event


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    silent, model_dir = threading.Event(), write_folder(tmp_path_factory.mktemp("model"))

    def script(worker: ScriptedWorker, request: WorkRequest) -> None:
        if not silent.is_set():
            echo(worker, request)

    worker = ScriptedWorker(script=script)
    worker.info = replace(worker.info, profile=SMALL_STEPS)
    with asyncio.Runner() as runner:
        serve = serving(model_dir, worker, config=LIMITS)
        stack = runner.run(serve.__aenter__())
        channel = grpc.aio.insecure_channel(stack.address)
        yield Target(runner, stack, channel, worker, silent)
        runner.run(channel.close())
        runner.run(serve.__aexit__(None, None, None))


async def outcome(channel: Any, method: MethodDescriptor, data: bytes) -> tuple[str, str]:
    """Return the reason and code with which a call ends."""
    call = channel.unary_stream(path(method))(data, timeout=WITHIN_S)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return reason_of(error), error.code().name
    return "", "OK"


def check(found: tuple[str, str], method: MethodDescriptor) -> None:
    """Check for an answer or a documented refusal, without a fault of ours."""
    expected = ("", "UNIMPLEMENTED" if method.name in NOT_HERE else "OK")
    assert found == expected or (found in DOCUMENTED and found[1] != "INTERNAL")


@st.composite
def requests(draw: st.DrawFn) -> tuple[MethodDescriptor, Message]:
    """Draw a method and a request for it; half of the time a method that generates."""
    generates = [method for method in METHODS if method.name == "Generate"]
    method = draw(st.sampled_from(generates) | st.sampled_from(METHODS))
    message = draw(any_message(method.input_type))
    if method.input_type.full_name in _GOOD and draw(st.integers(0, 3)):
        good = type(message)()
        good.CopyFrom(draw(st.sampled_from(_GOOD[method.input_type.full_name])))
        good.MergeFrom(message)
        message = good
    return method, message


def send_messages(target: Target) -> Counter[tuple[str, str]]:
    """Send many messages; return the count of each outcome."""
    outcomes = Counter[tuple[str, str]]()

    @settings(
        max_examples=examples(800), suppress_health_check=[HealthCheck.too_slow], parent=SEEDED
    )
    @given(request=requests())
    def send(request: tuple[MethodDescriptor, Message]) -> None:
        method, message = request
        found = target.runner.run(outcome(target.channel, method, message.SerializeToString()))
        check(found, method)
        outcomes[found] += 1

    send()
    return outcomes


def send_bytes(target: Target) -> None:
    """Send arbitrary bytes, which are hardly ever a message."""

    @settings(max_examples=examples(100), parent=SEEDED)
    @given(method=st.sampled_from(METHODS), data=st.binary(max_size=40))
    def send(method: MethodDescriptor, data: bytes) -> None:
        check(target.runner.run(outcome(target.channel, method, data)), method)

    send()


def test_every_request_is_answered_or_refused_by_name_and_nothing_is_left(target: Target) -> None:
    outcomes = send_messages(target)
    # the messages are varied
    assert outcomes["", "OK"] > 100
    assert len(outcomes) > 6
    send_bytes(target)
    target.runner.run(_check_nothing_is_left(target))


async def _check_nothing_is_left(target: Target) -> None:
    """Check that no request, connection, queue place or tenant account is left in use."""
    stack, worker, before = target.stack, target.worker, len(target.worker.requests)
    totals = await stack.until_idle()
    assert totals.accepted == totals.completed + totals.cancelled
    assert totals.completed > 20
    assert stack.router._pool._links[0].num_streams == 1  # the connection was never lost
    assert not worker.live
    target.silent.set()
    waiting = [asyncio.create_task(collect(stack.client, "x")) for _ in range(WINDOW)]
    await asyncio.to_thread(worker.wait_for_request, before + WINDOW)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    after = await stack.until_idle()
    assert (after.cancelled, after.rejected) == (totals.cancelled + WINDOW, totals.rejected)
    target.silent.clear()
    assert text_of(await collect(stack.client, "fine")) == "fine"
    status = await stack.client.status()
    assert [worker.state for worker in status.workers] == [admin_pb2.WORKER_STATE_READY]
