"""Hostile client input, method by method: refused by name, and never sent to a worker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_pb2_grpc

from common.config import SecurityConfig
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.any_message import METHODS, SERVICES, path, serialize, texts_of
from tests.integration.support.guarded_router import (
    ACME,
    ZETA,
    Metadata,
    bearer,
    guarded,
    issue,
    methods_of,
    outcome,
    start,
)
from tests.integration.support.router_stack import Stack, collect, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder

Generate = inference_pb2.GenerateRequest
VllmGenerate = vllm_pb2.GenerateRequest
Outcome = tuple[grpc.StatusCode, str]

OURS, VLLM = (f"/{service.full_name}/" for service in SERVICES)
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
UNKNOWN_TOKEN = (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_OUT_OF_VOCABULARY")
NO_REQUEST = (grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_FOUND")
NO_MODEL = (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
DUPLICATE = (grpc.StatusCode.ALREADY_EXISTS, "DUPLICATE_REQUEST_ID")
BY_GRPC = (grpc.StatusCode.RESOURCE_EXHAUSTED, "")  # before it is parsed: docs/use/api.md
STRANGER = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
FINE = (grpc.StatusCode.OK, "")

MB5, LONG = "x" * 5_000_000, "x" * 100_000
LAST_ID = 2**32 - 1
STOPS = [str(number) for number in range(10**5)]
ONE_LONG: Metadata = (("x-long", "y" * 65_536),)
MANY_SHORT: Metadata = tuple((f"x-{number}", "y" * 64) for number in range(1024))


def ours(**sampling: Any) -> Generate:
    return Generate(text="x", sampling=inference_pb2.SamplingParams(**sampling))


def vllm(**sampling: Any) -> Any:
    params = vllm_pb2.SamplingParams(skip_special_tokens=True, **sampling)
    return VllmGenerate(request_id="v", text="x", sampling_params=params)


def chat(role: str, content: str) -> inference_pb2.ChatPrompt:
    return inference_pb2.ChatPrompt(
        messages=[inference_pb2.ChatMessage(role=role, content=content)]
    )


CASES: list[tuple[str, Message, Outcome]] = [
    (f"{OURS}Generate", Generate(text=MB5), BY_GRPC),
    (f"{OURS}Generate", Generate(chat=chat("user", MB5)), BY_GRPC),
    (f"{OURS}Tokenize", inference_pb2.TokenizeRequest(text=MB5), BY_GRPC),
    (f"{VLLM}Generate", VllmGenerate(text=MB5), BY_GRPC),
    (f"{OURS}Generate", ours(stop=STOPS), INVALID),
    (f"{VLLM}Generate", vllm(stop=STOPS), INVALID),
    (f"{OURS}Generate", ours(stop_token_ids=range(1, 10**5)), INVALID),
    (f"{VLLM}Generate", vllm(stop_token_ids=range(1, 10**5)), INVALID),
    (f"{OURS}Generate", ours(logit_bias=dict.fromkeys(range(10**5), 1.0)), INVALID),
    (f"{VLLM}Generate", vllm(logit_bias=dict.fromkeys(range(10**5), 1.0)), INVALID),
    (f"{OURS}Generate", ours(n=10**6), INVALID),
    (f"{VLLM}Generate", vllm(n=10**6), INVALID),
    (f"{OURS}Generate", ours(n=-(2**31)), INVALID),
    (f"{VLLM}Generate", vllm(n=2**32 - 1), INVALID),
    (
        f"{OURS}Generate",
        Generate(tokens=inference_pb2.TokenPrompt(token_ids=[1, LAST_ID])),
        UNKNOWN_TOKEN,
    ),
    (
        f"{VLLM}Generate",
        VllmGenerate(tokenized=vllm_pb2.TokenizedInput(input_ids=[1, LAST_ID])),
        UNKNOWN_TOKEN,
    ),
    (f"{OURS}Generate", ours(stop_token_ids=[LAST_ID]), UNKNOWN_TOKEN),
    (f"{VLLM}Generate", vllm(stop_token_ids=[LAST_ID]), UNKNOWN_TOKEN),
    (f"{OURS}Generate", ours(logit_bias={LAST_ID: 1.0}), UNKNOWN_TOKEN),
    (f"{VLLM}Generate", vllm(logit_bias={-1: 1.0}), INVALID),
    # quotes in a refusal must not make it too large to arrive
    (f"{OURS}Generate", Generate(text="x", model=LONG), NO_MODEL),
    (f"{OURS}Generate", Generate(text="x", model="é" * 100_000), NO_MODEL),
    (f"{OURS}Generate", Generate(text="x", request_id=LONG), INVALID),
    (f"{OURS}Generate", Generate(chat=chat(LONG, "x")), INVALID),
    (f"{OURS}Generate", Generate(request_id=LONG, resume_from=0), NO_REQUEST),
    (f"{OURS}Cancel", inference_pb2.CancelRequest(request_id=LONG), NO_REQUEST),
    (f"{OURS}Explain", inference_pb2.ExplainRequest(request_id=LONG), NO_REQUEST),
    (f"{OURS}Tokenize", inference_pb2.TokenizeRequest(model=LONG, text="x"), NO_MODEL),
    (f"{VLLM}Abort", vllm_pb2.AbortRequest(request_ids=STOPS), FINE),
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def stack(model_dir: Path) -> AsyncIterator[Stack]:
    """Yield a stack; afterwards no worker has got any request, and the next request is served."""
    worker = ScriptedWorker(script=echo)
    async with serving(model_dir, worker) as stack:
        yield stack
        assert not worker.requests
        assert (await stack.until_idle()).accepted == 0
        assert text_of(await collect(stack.client, "fine")) == "fine"
        assert stack.router._pool._links[0].num_streams == 1


async def ends(
    address: str, name: str, message: Message | bytes, metadata: Metadata = ()
) -> Outcome:
    """Return the outcome of a call."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        return await outcome(channel, (name, False), metadata, data)


async def test_what_is_too_much_is_refused_by_name(stack: Stack) -> None:
    for name, message, expected in CASES:
        found = await ends(stack.address, name, message)
        assert found == expected, (name, str(message)[:200])


async def test_64_kb_of_metadata_end_the_call_alone(model_dir: Path) -> None:
    """Another call on the same connection goes on."""
    worker = ScriptedWorker()
    async with (
        serving(model_dir, worker) as stack,
        grpc.aio.insecure_channel(stack.address) as channel,
    ):
        call = inference_pb2_grpc.InferenceStub(channel).Generate(Generate(text="x"))
        work = await asyncio.to_thread(worker.wait_for_request)
        for name in (f"{OURS}Generate", f"{VLLM}Generate"):
            for metadata in ONE_LONG, MANY_SHORT:
                assert await outcome(channel, (name, False), metadata) == BY_GRPC
        worker.say(work, "unharmed", ends=True)
        assert text_of([part async for part in call]) == "unharmed"
        assert len(worker.requests) == 1


async def test_bad_utf8_is_refused_in_every_text_of_every_message(stack: Stack) -> None:
    ways = [(method, way) for method in METHODS for way in texts_of(method.input_type)]
    named = {(method.name, ".".join(field.name for field in way)) for method, way in ways}
    assert named >= {
        ("Generate", "text"),
        ("Generate", "chat.messages.content"),
        ("Generate", "sampling.stop"),
        ("Generate", "sampling_params.stop"),
        ("Generate", "request_id"),
        ("Abort", "request_ids"),
    }
    for method, way in ways:
        for value in (b"\xff", b"\xed\xa0\x80", b"ok\xc3"):
            found = await ends(stack.address, path(method), serialize(way, value))
            assert found == INVALID, (path(method), [field.name for field in way])


async def test_a_live_requests_id_is_taken_on_both_faces(model_dir: Path) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        running = asyncio.create_task(collect(stack.client, "x", request_id="mine"))
        request = await asyncio.to_thread(worker.wait_for_request)
        for name, again in (
            (f"{OURS}Generate", Generate(text="x", request_id="mine")),
            (f"{OURS}Generate", Generate(text="x", request_id="mine", resumable=True)),
            (f"{VLLM}Generate", VllmGenerate(text="x", request_id="mine")),
        ):
            assert await ends(stack.address, name, again) == DUPLICATE
        worker.say(request, "unharmed", ends=True)
        assert text_of(await running) == "unharmed"
        assert len(worker.requests) == 1


async def test_another_tenants_id_and_a_strangers_message_tell_nothing(
    model_dir: Path, tmp_path: Path
) -> None:
    worker, file = ScriptedWorker(), tmp_path / "access"
    tokens = issue(file, ACME, ZETA)
    async with guarded(model_dir, worker, SecurityConfig(access_file=file)) as router:
        address, acme, zeta = await start(router), bearer(tokens["acme"]), bearer(tokens["zeta"])
        async with grpc.aio.insecure_channel(address) as channel:
            generate: Any = vllm_pb2_grpc.VllmEngineStub(channel).Generate
            plain = generate(VllmGenerate(request_id="plain", text="x"), metadata=acme)
            stub: Any = channel.unary_stream(f"{OURS}Generate", Generate.SerializeToString)
            kept = stub(Generate(request_id="kept", text="x", resumable=True), metadata=acme)
            works = [await asyncio.to_thread(worker.wait_for_request, n) for n in (1, 2)]
            for work in works:
                worker.say(work, "a")
            for request_id in ("plain", "kept", "acme/plain", "acme/kept"):
                for method, message, expected in (
                    ("Cancel", inference_pb2.CancelRequest(request_id=request_id), NO_REQUEST),
                    ("Explain", inference_pb2.ExplainRequest(request_id=request_id), NO_REQUEST),
                    ("Generate", Generate(request_id=request_id, resume_from=0), NO_REQUEST),
                ):
                    assert await ends(address, f"{OURS}{method}", message, zeta) == expected
                abort = vllm_pb2.AbortRequest(request_ids=[request_id])
                assert await ends(address, f"{VLLM}Abort", abort, zeta) == FINE
            for name, is_stream in await methods_of(channel, acme):
                if not is_stream and not name.startswith("/grpc.health"):
                    assert await ends(address, name, b"\xff") == STRANGER, name
            for work in works:
                worker.say(work, "b", 1, ends=True)
            (complete,) = [answer async for answer in plain]
            assert list(complete.complete.output_ids) == [*b"ab"]
            answers = [inference_pb2.GenerateResponse.FromString(data) async for data in kept]
            assert text_of(answers) == "ab"
        assert worker.cancelled == []
