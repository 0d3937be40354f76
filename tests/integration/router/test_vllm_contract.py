"""vllm.grpc.engine.VllmEngine on the router's port, over scripted workers."""

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_pb2_grpc
from smg_grpc_proto.generated import common_pb2

from common.messages import FinishReason, SequenceOutput, TokenLogprobs, WorkRequest
from pdserve.v1 import admin_pb2
from router.edge.vllm.service import SERVICE_NAME
from tests.integration.support.router_stack import Stack, serving
from tests.integration.support.scripted_worker import BLOCK_SIZE, BLOCKS, ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "bos_token_id": 258}
UNIMPLEMENTED = {
    "Embed": vllm_pb2.EmbedRequest,
    "FlushCache": common_pb2.FlushCacheRequest,
    "StartProfile": common_pb2.StartProfileRequest,
    "StopProfile": common_pb2.StopProfileRequest,
    "SubscribeKvEvents": common_pb2.SubscribeKvEventsRequest,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"eos_token_id": [257, 258]}))
    return tmp_path


@asynccontextmanager
async def calling(folder: Path, worker: ScriptedWorker) -> AsyncIterator[tuple[Any, Stack]]:
    """Yield a stub of the contract, and the router that answers it."""
    async with (
        serving(folder, worker) as stack,
        grpc.aio.insecure_channel(stack.address) as channel,
    ):
        yield vllm_pb2_grpc.VllmEngineStub(channel), stack


def ask(text: str = "hello", *, stream: bool = False, **sampling: Any) -> vllm_pb2.GenerateRequest:
    params = vllm_pb2.SamplingParams(**sampling)
    return vllm_pb2.GenerateRequest(
        request_id="one", text=text, stream=stream, sampling_params=params
    )


async def answers(stub: Any, request: vllm_pb2.GenerateRequest) -> list[vllm_pb2.GenerateResponse]:
    return [answer async for answer in stub.Generate(request, timeout=WITHIN_S)]


async def test_a_stream_has_a_chunk_a_token_and_a_complete_with_the_totals(folder: Path) -> None:
    async with calling(folder, ScriptedWorker(script=echo)) as (stub, _):
        *chunks, last = await answers(stub, ask("abc", stream=True, max_tokens=8))
    assert [list(part.chunk.token_ids) for part in chunks] == [[97], [98], [99]]
    assert {part.chunk.prompt_tokens for part in chunks} == {3}
    assert list(last.complete.output_ids) == [97, 98, 99]
    assert (last.complete.completion_tokens, last.complete.finish_reason) == (3, "stop")


async def test_without_streaming_there_is_one_complete(folder: Path) -> None:
    async with calling(folder, ScriptedWorker(script=echo)) as (stub, _):
        (only,) = await answers(stub, ask("abc", max_tokens=2))
    assert list(only.complete.output_ids) == [97, 98]
    assert only.complete.finish_reason == "length"


async def test_each_of_several_choices_is_completed_under_its_index(folder: Path) -> None:
    async with calling(folder, ScriptedWorker(script=echo)) as (stub, _):
        found = await answers(stub, ask("abc", max_tokens=8, n=3))
    assert sorted(part.complete.index for part in found) == [0, 1, 2]


async def test_log_probabilities_are_given_by_chunk_and_in_total(folder: Path) -> None:
    def speak(worker: ScriptedWorker, request: WorkRequest) -> None:
        name, of_prompt = request.request_id, (TokenLogprobs(-3.0, (1,), (-0.5,)),)
        first, second = TokenLogprobs(-1.0, (9, 8), (-1.0, -2.0)), TokenLogprobs(-4.0, (), ())
        worker.publish(SequenceOutput(name, 0, (9,), logprobs=(first,), prompt_logprobs=of_prompt))
        worker.publish(SequenceOutput(name, 1, (7,), FinishReason.STOP, logprobs=(second,)))

    async with calling(folder, ScriptedWorker(script=speak)) as (stub, _):
        request = ask("ab", stream=True, max_tokens=8, logprobs=2, prompt_logprobs=1)
        first, _, last = await answers(stub, request)
    assert list(first.chunk.output_logprobs.token_logprobs) == [-1.0]
    assert list(first.chunk.output_logprobs.top_logprobs[0].token_ids) == [9, 8]
    total = last.complete.output_logprobs
    assert (list(total.token_logprobs), list(total.token_ids)) == ([-1.0, -4.0], [9, 7])
    of_prompt = last.complete.input_logprobs
    assert list(of_prompt.token_ids) == [97, 98]
    assert not of_prompt.token_logprobs[0].HasField("value")
    assert of_prompt.token_logprobs[1].value == -3.0


async def test_the_stop_that_ended_a_choice_is_named(folder: Path) -> None:
    async with calling(folder, ScriptedWorker(script=echo)) as (stub, _):
        request = ask("abcd", max_tokens=8, stop=["zz", "bc"], skip_special_tokens=True)
        (by_text,) = await answers(stub, request)
        (by_token,) = await answers(stub, ask("ab", max_tokens=8, stop_token_ids=[98]))
        (by_model,) = await answers(stub, ask("ab", max_tokens=8))
    assert by_text.complete.matched_stop_str == "bc"
    assert list(by_text.complete.output_ids) == [97, 98, 99]
    assert by_token.complete.matched_token_id == 98
    assert by_model.complete.WhichOneof("matched_stop") is None


async def test_abort_ends_the_stream_well_and_frees_the_worker(folder: Path) -> None:
    worker = ScriptedWorker(script=lambda self, request: self.say(request, "a"))
    async with calling(folder, worker) as (stub, stack):
        stream = stub.Generate(ask(stream=True), timeout=WITHIN_S)
        first = await stream.read()
        await stub.Abort(vllm_pb2.AbortRequest(request_ids=["unknown", "one"]), timeout=WITHIN_S)
        last, end = await stream.read(), await stream.read()
        await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
        totals = await stack.until_idle()
    assert (list(first.chunk.token_ids), end) == ([97], grpc.aio.EOF)
    assert (last.complete.finish_reason, list(last.complete.output_ids)) == ("abort", [97])
    assert (totals.accepted, totals.cancelled) == (1, 1)


async def test_a_client_that_leaves_frees_the_worker(folder: Path) -> None:
    worker = ScriptedWorker(script=lambda self, request: self.say(request, "a"))
    async with calling(folder, worker) as (stub, stack):
        stream = stub.Generate(ask(stream=True), timeout=WITHIN_S)
        await stream.read()
        stream.cancel()
        await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
        assert (await stack.until_idle()).cancelled == 1


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (ask(temperature=-1.0), "INVALID_ARGUMENT", "sampling_params.temperature: -1 is not"),
        (ask(regex="("), "INVALID_ARGUMENT", "sampling_params.regex: "),
        (ask(structural_tag="{}"), "INVALID_ARGUMENT", "sampling_params.structural_tag: is not"),
        (ask(max_tokens=10_000), "INVALID_ARGUMENT", "sampling_params.max_tokens: prompt of 5"),
        (vllm_pb2.GenerateRequest(), "INVALID_ARGUMENT", "tokenized.input_ids: the prompt is"),
    ],
)
async def test_a_refusal_names_the_field_as_the_contract_does_and_is_counted(
    folder: Path, request_: vllm_pb2.GenerateRequest, code: str, words: str
) -> None:
    async with calling(folder, ScriptedWorker()) as (stub, stack):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await answers(stub, request_)
        assert refusal.value.code().name == code
        assert str(refusal.value.details()).startswith(words)
        assert (await stack.client.status()).router.totals.rejected == 1


@pytest.mark.parametrize("method", UNIMPLEMENTED)
async def test_what_there_is_not_says_so_by_name(folder: Path, method: str) -> None:
    async with calling(folder, ScriptedWorker()) as (stub, _):
        call = getattr(stub, method)(UNIMPLEMENTED[method](), timeout=WITHIN_S)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await (call.read() if method == "SubscribeKvEvents" else call)
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert str(refusal.value.details()).startswith(f"{method}: ")


def test_every_method_of_the_contract_is_answered() -> None:
    service = vllm_pb2.DESCRIPTOR.services_by_name["VllmEngine"]
    served = {"Generate", "Abort", "HealthCheck", "GetModelInfo", "GetServerInfo", "GetLoads"}
    assert {method.name for method in service.methods} == {
        *served,
        "GetTokenizer",
        *UNIMPLEMENTED,
    }


async def test_the_model_the_server_and_its_load_are_described(folder: Path) -> None:
    async with calling(folder, ScriptedWorker()) as (stub, _):
        model = await stub.GetModelInfo(vllm_pb2.GetModelInfoRequest(), timeout=WITHIN_S)
        server = await stub.GetServerInfo(vllm_pb2.GetServerInfoRequest(), timeout=WITHIN_S)
        loads = await stub.GetLoads(vllm_pb2.GetLoadsRequest(), timeout=WITHIN_S)
    assert (model.served_model_name, model.vocab_size) == ("tiny", VOCAB_SIZE)
    assert (model.max_context_length, model.is_generation) == (BLOCKS * BLOCK_SIZE, True)
    assert (list(model.eos_token_ids), model.bos_token_id) == ([257, 258], 258)
    assert list(model.architectures) == ["LlamaForCausalLM"]
    assert (server.data_parallel_size, server.block_size) == (1, BLOCK_SIZE)
    (load,) = loads.loads
    assert (load.max_total_num_tokens, load.token_usage) == (BLOCKS * BLOCK_SIZE, 0.0)


async def test_the_tokenizer_comes_as_an_archive_with_its_digest(folder: Path) -> None:
    async with calling(folder, ScriptedWorker()) as (stub, _):
        call = stub.GetTokenizer(common_pb2.GetTokenizerRequest(), timeout=WITHIN_S)
        chunks = [chunk async for chunk in call]
    data = b"".join(chunk.data for chunk in chunks)
    assert chunks[-1].sha256 == hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("tokenizer.json") == (folder / "tokenizer.json").read_bytes()


async def test_its_health_goes_with_the_workers_and_the_router(folder: Path) -> None:
    async with calling(folder, ScriptedWorker()) as (stub, stack):
        async with grpc.aio.insecure_channel(stack.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            standard = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        before = await stub.HealthCheck(vllm_pb2.HealthCheckRequest(), timeout=WITHIN_S)
        await stack.lose(0)
        await stack.until(lambda status: status.workers[0].state != admin_pb2.WORKER_STATE_READY)
        after = await stub.HealthCheck(vllm_pb2.HealthCheckRequest(), timeout=WITHIN_S)
    assert standard.status == health_pb2.HealthCheckResponse.SERVING
    assert (before.healthy, after.healthy) == (True, False)
    assert after.message.startswith("no decode worker is ready")
