"""Traces of requests: real workers in this process, and a collector that reads OTLP."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from structlog.testing import capture_logs

from common.messages import SequenceOutput, WorkFailure, WorkRequest
from pdserve.errors import InvalidRequestError, Reason, RequestError
from pdserve.v1 import inference_pb2
from tests.integration.support.in_process_router import read_to_the_end, routed
from tests.integration.support.openai_stack import openai_serving
from tests.integration.support.router_stack import collect, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.integration.support.trace_collector import Received, TraceCollector, tracing_to
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
MARKER = "what the user said"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    with TraceCollector().serving() as collector:
        yield collector


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def kin(spans: list[Received], parent: Received) -> list[Received]:
    """Return the spans right inside another one."""
    return [s for s in spans if s.span.parent_span_id == parent.span.span_id]


def only(spans: list[Received], name: str) -> Received:
    (found,) = [s for s in spans if s.name == name]
    return found


async def test_a_disaggregated_request_is_one_trace_across_all_processes(
    tmp_path: Path, collector: TraceCollector
) -> None:
    async with routed(tmp_path, tracing=tracing_to(collector.endpoint)) as rig:
        request = inference_pb2.GenerateRequest(
            request_id="whole",
            tokens=inference_pb2.TokenPrompt(token_ids=rig.prompt()),
            sampling=inference_pb2.SamplingParams(seed=3, max_tokens=8, ignore_eos=True),
        )
        metadata = (("traceparent", SAMPLED), ("tracestate", "rojo=00f067aa0ba902b7"))
        await read_to_the_end(rig.ours.Generate(request, timeout=WITHIN_S, metadata=metadata))
        spans = await asyncio.to_thread(collector.trace_of, "whole")
    check_request(spans)
    check_stages(spans)


def check_request(spans: list[Received]) -> None:
    root = spans[0]
    assert {s.span.trace_id.hex() for s in spans} == {TRACE}
    assert (root.span.parent_span_id.hex(), root.span.trace_state) == (
        PARENT,
        "rojo=00f067aa0ba902b7",
    )
    assert (root.name, root.service) == ("text_completion tiny", "pdserve-router")
    assert root.span.kind == root.span.SPAN_KIND_SERVER
    assert root.attributes["gen_ai.usage.input_tokens"] == 40
    assert root.attributes["gen_ai.usage.output_tokens"] == 8
    assert root.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert sorted(s.name for s in kin(spans, root)) == ["attempt", "queue"]
    assert len({s.span.span_id for s in spans}) == len(spans)
    assert all(s.span.start_time_unix_nano <= s.span.end_time_unix_nano for s in spans)
    assert min(s.span.start_time_unix_nano for s in spans) == root.span.start_time_unix_nano


def check_stages(spans: list[Received]) -> None:
    attempt = only(spans, "attempt")
    stages = Counter((s.name, s.service, s.instance) for s in kin(spans, attempt))
    prefill, decode = ("pdserve-prefill", "prefill-0"), ("pdserve-decode", "decode-0")
    wanted = {
        ("queue", *decode): 1,
        ("prefill", *prefill): 1,
        ("transfer", *decode): 3,
        ("insert", *decode): 3,
        ("decode", *decode): 1,
    }
    assert {key: stages[key] for key in wanted} == wanted
    chunks = kin(spans, only(kin(spans, attempt), "prefill"))
    assert [(c.name, c.instance, c.attributes["pdserve.num_tokens"]) for c in chunks] == [
        ("chunk", "prefill-0", tokens) for tokens in (16, 16, 8)
    ]
    for transfer in (s for s in spans if s.name == "transfer"):
        parts = {s.name: s.service for s in kin(spans, transfer)}
        assert parts == {"copy-out": "pdserve-prefill", "wire": "pdserve-decode"}


async def test_vllm_s_face_takes_the_callers_trace_too(
    tmp_path: Path, collector: TraceCollector
) -> None:
    async with routed(tmp_path, tracing=tracing_to(collector.endpoint, 0.0)) as rig:
        request = vllm_pb2.GenerateRequest(
            request_id="vllm",
            tokenized=vllm_pb2.TokenizedInput(input_ids=rig.prompt()),
            sampling_params=vllm_pb2.SamplingParams(max_tokens=2),
            stream=True,
        )
        metadata = (("traceparent", SAMPLED),)
        await read_to_the_end(rig.vllm.Generate(request, timeout=WITHIN_S, metadata=metadata))
        spans = await asyncio.to_thread(collector.trace_of, "vllm")
    assert {s.span.trace_id.hex() for s in spans} == {TRACE}


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/v1/completions", {"prompt": "ab"}, "text_completion"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "ab"}]}, "chat"),
    ],
)
async def test_openai_s_face_takes_it_from_http_headers(
    model_dir: Path,
    collector: TraceCollector,
    path: str,
    body: dict[str, Any],
    operation: str,
) -> None:
    tracing = tracing_to(collector.endpoint, 0.0)
    worker = ScriptedWorker(script=echo)
    async with openai_serving(model_dir, worker, tracing=tracing) as openai:
        headers = {"traceparent": SAMPLED, "X-Request-ID": "http"}
        answer = await openai.http.post(path, json={"model": "tiny", **body}, headers=headers)
        assert answer.status_code == 200
        unsampled = {"traceparent": UNSAMPLED, "X-Request-ID": "no"}
        await openai.http.post(path, json={"model": "tiny", **body}, headers=unsampled)
        root = (await asyncio.to_thread(collector.trace_of, "http"))[0]
    assert (root.span.trace_id.hex(), root.span.parent_span_id.hex()) == (TRACE, PARENT)
    assert root.name == f"{operation} tiny"
    # the router has stopped, so that all is sent
    assert {s.attributes.get("pdserve.request_id", "http") for s in collector.wait(bool)} == {
        "http"
    }


async def test_refusal_cancel_and_failure_end_the_span_with_their_reason(
    model_dir: Path, collector: TraceCollector
) -> None:
    def script(worker: ScriptedWorker, request: WorkRequest) -> None:
        if "/fails" in request.request_id:
            failure = WorkFailure(Reason.NAN_LOGITS, MARKER)
            worker.publish(SequenceOutput(request.request_id, 0, failure=failure))
        else:
            worker.say(request, "a")

    worker = ScriptedWorker(script=script)
    async with serving(model_dir, worker, tracing=tracing_to(collector.endpoint)) as stack:
        with pytest.raises(InvalidRequestError), capture_logs() as lines:
            await collect(stack.client, "x", request_id="refused", top_p=7)
        with pytest.raises(RequestError):
            await collect(stack.client, "x", request_id="fails")
        running = asyncio.create_task(collect(stack.client, "x", request_id="left"))
        await stack.until(lambda status: status.router.requests_in_flight == 1)
        await stack.client.cancel("left")
        await asyncio.gather(running, return_exceptions=True)
        found = {
            name: (await asyncio.to_thread(collector.trace_of, name))[0]
            for name in ("refused", "fails", "left")
        }
    ends = {name: (s.span.status.message, s.attributes["error.type"]) for name, s in found.items()}
    assert ends == {
        "refused": ("INVALID_FIELD", "INVALID_FIELD"),
        "fails": ("NAN_LOGITS", "NAN_LOGITS"),
        "left": ("CANCELLED", "CANCELLED"),
    }
    codes = {s.span.status.code for s in found.values()}
    assert codes == {found["left"].span.status.STATUS_CODE_ERROR}
    (line,) = [line for line in lines if line["event"] == "request_ended"]
    assert line["trace_id"] == found["refused"].span.trace_id.hex()
    assert MARKER not in str(collector.wait(bool))


async def test_requests_go_on_beside_a_collector_that_does_not_answer(
    model_dir: Path, collector: TraceCollector
) -> None:
    collector.gate.clear()
    tracing = tracing_to(collector.endpoint, max_queued_spans=6, timeout_s=WITHIN_S)
    async with serving(model_dir, ScriptedWorker(script=echo), tracing=tracing) as stack:
        for number in range(8):
            assert text_of(await collect(stack.client, "ab", request_id=f"r{number}")) == "ab"
            if not number:  # the batch of the first one waits for its answer from now on
                await asyncio.to_thread(collector.wait, bool)
        # a trace has the request, its queue and its attempt, and the queue holds two of them
        assert tracing.counts.queue_full == 5 * 3
        collector.gate.set()
    assert tracing.counts.exported == 3 * 3


async def test_requests_go_on_without_a_collector(model_dir: Path) -> None:
    tracing = tracing_to("http://127.0.0.1:1")
    async with serving(model_dir, ScriptedWorker(script=echo), tracing=tracing) as stack:
        for number in range(3):
            assert text_of(await collect(stack.client, "ab", request_id=f"r{number}")) == "ab"
    assert (tracing.counts.export_failed, tracing.counts.exported) == (3 * 3, 0)
