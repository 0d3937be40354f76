"""Bad input: a typed error that names the field, one line on the command line, no other effect."""

import json
import socket
import subprocess
from pathlib import Path

import pytest

from common.cache_dir import default_cache_dir
from common.engine.weights.resolve import ModelSource
from pdserve.client import AsyncClient
from pdserve.errors import InvalidRequestError, NotFoundError, PdserveError, Reason
from pdserve.v1 import inference_pb2
from tests.integration.support.commands import run_here
from tests.integration.support.processes import PDSERVE, Served, run_cli
from tests.integration.support.waiting import until_nothing_is_held
from tests.patience import WITHIN_S

Sampling = inference_pb2.SamplingParams

_BAD = [
    ("empty text", "", Sampling(), Reason.EMPTY_PROMPT, "text"),
    ("no tokens", [], Sampling(), Reason.EMPTY_PROMPT, "tokens.token_ids"),
    (
        "beyond the context",
        [5] * 10,
        Sampling(max_tokens=9000),
        Reason.CONTEXT_EXCEEDED,
        "sampling.max_tokens",
    ),
    (
        "beyond the KV memory",
        [5] * 10,
        Sampling(max_tokens=8000),
        Reason.KV_CAPACITY_EXCEEDED,
        "sampling.max_tokens",
    ),
    (
        "unknown token",
        [5, 49152],
        Sampling(),
        Reason.TOKEN_OUT_OF_VOCABULARY,
        "tokens.token_ids",
    ),
    ("max_tokens 0", [5], Sampling(max_tokens=0), Reason.INVALID_FIELD, "sampling.max_tokens"),
    ("max_tokens -1", [5], Sampling(max_tokens=-1), Reason.INVALID_FIELD, "sampling.max_tokens"),
    (
        "NaN temperature",
        [5],
        Sampling(temperature=float("nan")),
        Reason.INVALID_FIELD,
        "sampling.temperature",
    ),
]


@pytest.mark.parametrize(
    ("prompt", "sampling", "reason", "field"),
    [row[1:] for row in _BAD],
    ids=[str(row[0]) for row in _BAD],
)
async def test_bad_requests_are_refused_by_field(
    served: Served, prompt: str | list[int], sampling: Sampling, reason: Reason, field: str
) -> None:
    async with AsyncClient(served.grpc) as client:
        with pytest.raises(InvalidRequestError) as caught:
            async for _ in client.stream(prompt, sampling):
                pass
        assert (caught.value.reason, caught.value.field) == (reason, field)
        status = await until_nothing_is_held(client)
    assert {worker.state for worker in status.workers} == {1}


async def test_an_unknown_model_is_not_found(served: Served) -> None:
    async with AsyncClient(served.grpc) as client:
        request = inference_pb2.GenerateRequest(model="gpt-17", text="hello")
        with pytest.raises(NotFoundError) as caught:
            async for _ in client.send(request):
                pass
    assert (caught.value.reason, caught.value.field) == (Reason.MODEL_NOT_FOUND, "model")


def test_generate_prints_text_and_json(served: Served) -> None:
    text = run_cli("generate", "What is the capital of France?", "--address", served.grpc)
    assert (text.returncode, text.stdout.strip()) == (0, "The capital of France is Paris.")
    answer = run_here(
        "generate", "1, 2, 3,", "--raw", "--json", "--max-tokens", "4", "--address", served.grpc
    )
    found = json.loads(answer.stdout)
    assert found["finish_reason"] == "length"
    assert found["usage"] == {"prompt_tokens": 8, "completion_tokens": 4, "cached_tokens": 0}
    assert found["timings"]["first_token_us"] > 0


def test_status_json_shows_workers_and_router(served: Served) -> None:
    status = json.loads(run_here("status", "--json", "--address", served.grpc).stdout)
    assert status["router"]["requests_in_flight"] == 0
    for worker, role in zip(status["workers"], ("prefill", "decode"), strict=True):
        assert (worker["role"], worker["name"]) == (role, f"{role}-0")
        assert worker["state"] == "ready"
        assert worker["pid"] > 1
        assert worker["incarnation"]
        assert (worker["dtype"], worker["dtype_reason"]) == ("bfloat16", "engine.dtype")
        assert worker["blocks"]["free"] == worker["blocks"]["total"]


def _one_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def test_serve_refuses_what_it_cannot_start_with_in_one_line(
    model: ModelSource, tmp_path: Path
) -> None:
    (tmp_path / "typo.yaml").write_text("engine:\n  blok_size: 16\n")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x01" * 100)
    cases = [
        (["nosuch-model"], "nosuch-model"),
        ([str(tmp_path / "missing")], "no such folder"),
        ([str(tmp_path / "cut.gguf")], "cut short"),
        (
            [model.name, "--config", str(tmp_path / "typo.yaml")],
            "did you mean 'engine.block_size'?",
        ),
        ([model.name, "--decode", "0"], "decode"),
        ([model.name, "--dtype", "int3"], "engine.dtype"),
    ]
    for args, expected in cases:
        result = run_here("serve", *args)
        assert result.returncode == 2, (args, result.stderr)
        assert expected in _one_line(result)


@pytest.mark.parametrize("flag", ["--grpc-port", "--http-port"])
def test_a_port_in_use_is_refused_before_anything_starts(model: ModelSource, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        other = "--http-port" if flag == "--grpc-port" else "--grpc-port"
        result = run_cli("serve", model.name, flag, port, other, "0")
    assert result.returncode == 2
    assert f"{flag[2:].replace('-', '_')} {port}" in _one_line(result)


def test_generate_with_no_router_says_so_in_one_line() -> None:
    result = run_here("generate", "hello", "--address", "127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1:1" in _one_line(result)


def test_the_model_list_knows_the_default_model(model: ModelSource) -> None:
    result = subprocess.run(
        [str(PDSERVE), "model", "list"],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    assert "smollm2-135m" in result.stdout
    assert model.path.is_relative_to(default_cache_dir())


def test_every_error_is_in_the_tree() -> None:
    assert issubclass(InvalidRequestError, PdserveError)
