"""Security advisories of other servers, tried here; SECURITY.md lists all.

Each test names its advisories. CVE-2023-48022 (an open Ray) is in test_security_served.py, where a
Ray runs.
"""

import ast
import re
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
import xxhash
from google.protobuf.descriptor import Descriptor

from common.kv_transfer.wire import WireError, decode_header
from common.messages import SamplingParams, WorkRequest
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.support.in_process_workers import PREFILL, Workers
from tests.integration.support.router_stack import Stack, collect, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.common.engine.tiny_models import save_model
from tests.unit.repository.sources import ROOT, modules, statements
from tests.unit.repository.test_forbidden import ALLOWED, WORDS, offences
from tests.unit.router.tiny_tokenizer import write_folder

GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=4)
PROMPT = tuple(range(3, 43))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def stack(model_dir: Path) -> AsyncIterator[Stack]:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        yield stack


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with Workers(save_model(tmp_path_factory.mktemp("llama"), "llama")) as workers:
        yield workers


@pytest.mark.parametrize("advisory", ["CVE-2025-32444", "CVE-2025-29783", "CVE-2026-115912"])
async def test_a_pickle_from_a_peer_is_bytes(advisory: str, stack: Stack, tmp_path: Path) -> None:
    """Send a pickle to our readers; it runs nothing.

    vLLM unpickled messages of ZeroMQ, and a forged shared-memory handle. Here nothing unpickles
    messages of peers; the test of forbidden names enforces that.
    """
    made = tmp_path / "made-by-the-pickle"
    pickled = f"cos\nmkdir\n(S'{made}'\ntR.".encode()  # protocol 0, since tests import no pickle
    for data in (pickled, xxhash.xxh3_64_digest(pickled) + pickled):
        with pytest.raises(WireError):
            decode_header(data)
    async with grpc.aio.insecure_channel(stack.address) as channel:
        raw: Any = channel.unary_stream("/pdserve.v1.Inference/Generate")  # takes bytes
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in raw(pickled):
                pass
    assert text_of(await collect(stack.client, "hello")) == "hello"
    assert not made.exists()
    assert offenders() == set(ALLOWED)


@cache
def offenders() -> set[str]:
    """Return the sources that use a forbidden name; to parse all takes seconds."""
    return {path for path, module in modules(having=WORDS) if [*offences(module)]}


@pytest.mark.parametrize("advisory", ["CVE-2026-94622"])
def test_clients_cannot_describe_a_hand_off(advisory: str, workers: Workers) -> None:
    """Give a worker an impossible hand-off; it serves the request all the same.

    vLLM took `kv_transfer_params` from clients, and incomplete ones killed the decode engine. Our
    public message has no such field, nor an open-ended map that could hold one.
    """
    fields = set(_fields(inference_pb2.GenerateRequest.DESCRIPTOR))
    assert {"sampling", "cache_salt", "schema"} & fields
    for name in fields:
        assert not {"kv", "transfer", "handoff", "remote", "engine", "params"} & set(
            name.split("_")
        )
    for number, prefill in enumerate(("prefill-99", "../x", "\x00", PREFILL)):
        name = f"handoff-{number}"
        workers.submit(name, list(PROMPT), GREEDY, prefill=prefill)
        assert len(workers.answers.finished(name).tokens) == GREEDY.max_tokens
    workers.check_at_rest()


@pytest.mark.parametrize("advisory", ["CVE-2026-94623"])
def test_prompts_of_one_group_that_differ_harm_nobody(advisory: str, workers: Workers) -> None:
    """Send a group with different prompts; each request is answered as if alone.

    A vLLM decode worker asserted that a request has one prompt, and died of two. Here several
    choices are a group of requests with one prompt.
    """
    prompts = [PROMPT, PROMPT[:20], tuple(reversed(PROMPT))]
    texts = {}
    for tag, prefill in (("", None), ("group", None), ("group-far", PREFILL)):
        for number, prompt in enumerate(prompts):
            work = WorkRequest(f"{tag}{number}", 1, prompt, GREEDY, prefill, None, tag, tag)
            workers.decode.submit(work)
        for number in range(len(prompts)):
            texts[tag, number] = workers.answers.finished(f"{tag}{number}").tokens
        workers.check_at_rest()
    for (_, number), text in texts.items():
        assert text == texts["", number]


@pytest.mark.parametrize("advisory", ["PYSEC-2026-4353"])
async def test_strange_metadata_and_unknown_fields_change_nothing(
    advisory: str, stack: Stack
) -> None:
    """Send invented metadata and unknown fields; both are ignored.

    vLLM's /inference/v1/generate failed on metadata that a client made up. Here only
    `authorization` is read, and fields that no version has are skipped.
    """
    request = inference_pb2.GenerateRequest(text="hello")
    unknown = b"\xfa\x3f\x05odd\x00\xff"  # field 1023, five bytes
    request.MergeFromString(unknown)
    metadata = (
        ("kv-transfer-params", "{"),
        ("x-data-parallel-rank", "-1"),
        ("x-odd-bin", bytes(range(256))),
        ("x-long", "y" * 4000),
    )
    async with grpc.aio.insecure_channel(stack.address) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).Generate(request, metadata=metadata)
        assert "".join([response.text async for response in call]) == "hello"


@pytest.mark.parametrize("advisory", ["CVE-2026-105756"])
@pytest.mark.parametrize("salt", ["\x00", "\ufffe", "🧂" * 256, "a/b", "\u202e", "%s{}", " ", "\n"])
async def test_a_salt_is_any_text(advisory: str, salt: str, stack: Stack, workers: Workers) -> None:
    """Send odd characters in a salt, which killed vLLM's engine; here they are only hashed."""
    request = inference_pb2.GenerateRequest(text="hello", cache_salt=salt)
    assert "".join([part.text async for part in stack.client.send(request)]) == "hello"
    name = f"salt-{salt[:2]}"
    workers.submit(name, list(PROMPT), GREEDY, salt=salt)
    assert len(workers.answers.finished(name).tokens) == GREEDY.max_tokens


@pytest.mark.parametrize("advisory", ["CVE-2026-41523"])
def test_no_check_is_an_assert(advisory: str) -> None:
    """Find no assert in our sources; `python -O` removes them.

    A security check of vLLM was an `assert`. ruff's S101 forbids them in `make check`; this test
    also finds them where somebody silenced the rule.
    """
    found = [
        f"{path}:{node.lineno}"
        for path, module in modules(having=r"\bassert\b")
        for node in statements(module)
        if isinstance(node, ast.Assert)
    ]
    assert [place for place in found if not place.startswith("benchmarks/")] == []


@pytest.mark.parametrize("advisory", ["CVE-2026-27893"])
def test_no_model_brings_code(advisory: str) -> None:
    """Find no code from models: `trust_remote_code` and pickled weights are never allowed.

    vLLM had `trust_remote_code=True` in two files. Here every mention is a literal False, and
    `use_safetensors` is always True, so weights are never read from pickles.
    """
    wanted = {"trust_remote_code": False, "use_safetensors": True}
    mentions = [
        (path, node.arg, ast.unparse(node.value))
        for path, module in modules(having="|".join(wanted))
        for node in ast.walk(module)
        if isinstance(node, ast.keyword) and node.arg in wanted
    ]
    assert [m for m in mentions if m[2] != str(wanted[str(m[1])])] == []
    assert {name for _, name, _ in mentions} == set(wanted)


def test_the_list_in_the_security_policy_is_the_list_of_tests() -> None:
    listed = {word for word in _words(ROOT / "SECURITY.md") if _is_advisory(word)}
    tested = {
        node.value
        for _, module in modules(ROOT / "tests" / "integration", having="CVE-|PYSEC-")
        for node in ast.walk(module)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _is_advisory(node.value)
    }
    assert listed == tested
    assert len(listed) == 10


def _words(file: Path) -> list[str]:
    return file.read_text("utf-8").replace("|", " ").replace("`", " ").replace(",", " ").split()


def _is_advisory(text: str) -> bool:
    return re.fullmatch(r"(CVE|PYSEC)-\d{4}-\d+", text) is not None


def _fields(message: Descriptor) -> Iterator[str]:
    for field in message.fields:
        yield field.name
        if field.message_type is not None:
            yield from _fields(field.message_type)
