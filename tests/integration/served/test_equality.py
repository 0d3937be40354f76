"""Greedy text through all three processes equals that of `transformers`, in float32."""

import asyncio
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.engine.weights.resolve import ModelSource
from pdserve.client import AsyncClient
from pdserve.v1 import admin_pb2, inference_pb2
from tests.integration.support.processes import Served, serving
from tests.integration.support.waiting import until_nothing_is_held
from tests.unit.common.engine.tiny_models import continue_greedily

pytestmark = pytest.mark.deployment

P, D = admin_pb2.WORKER_ROLE_PREFILL, admin_pb2.WORKER_ROLE_DECODE
_CONCURRENCY = 16
_TOPICS = ("the sea", "a train in winter", "prime numbers", "bread", "the moon", "an old clock")
_COUNTERS = (
    "kv_bytes",
    "prefill_tokens",
    "prefill_fallbacks",
    "prefix_hit_tokens",
    "prefix_query_tokens",
)
_END = 2  # the end token in SmolLM2's vocabulary
_FILLER = "It was a long day and everyone had something to say about it. "


Answer = tuple[list[int], str]


@dataclass(frozen=True)
class Case:
    """A prompt, and the length of its continuation."""

    prompt: str
    max_tokens: int


def _cases() -> list[Case]:
    """Return 40 prompts of 5 to 400 tokens; some come again with another length."""
    draw = random.Random(7)
    cases = []
    for index in range(40):
        repeats = draw.choice((0, 0, 1, 3, 8, 25)) if index else 25
        prompt = f"Tell me about {draw.choice(_TOPICS)}. {_FILLER * repeats}In short,"
        cases.append(Case(prompt, draw.randint(2, 20)))
    return cases


CASES = _cases()


class Reference:
    """The model run by `transformers`: prompt and answer in one pass, without a KV cache."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._known: set[tuple[str, tuple[int, ...]]] = set()

    def check(self, answers: list[Answer]) -> None:
        """Check that each token is the likeliest one, up to the end token or max_tokens."""
        longest: dict[str, list[int]] = {}
        for (token_ids, text), case in zip(answers, CASES, strict=True):
            assert len(token_ids) == case.max_tokens or token_ids[-1] == _END
            assert _END not in token_ids[:-1]
            assert text == self._tokenizer.decode(token_ids, skip_special_tokens=True)
            longest[case.prompt] = max(longest.get(case.prompt, []), token_ids, key=len)
        for prompt, token_ids in longest.items():
            self._check_likeliest(prompt, token_ids)
        shortest = min(longest, key=len)  # `generate` takes a second for each
        assert longest[shortest] == self._generate(shortest, len(longest[shortest]))
        for (token_ids, _), case in zip(answers, CASES, strict=True):
            assert token_ids == longest[case.prompt][: len(token_ids)], case.prompt

    def _generate(self, prompt: str, num_tokens: int) -> list[int]:
        ids = self._tokenizer(prompt)["input_ids"]
        return continue_greedily(self._model, ids, num_tokens)

    def _check_likeliest(self, prompt: str, token_ids: list[int]) -> None:
        if (prompt, tuple(token_ids)) in self._known:
            return
        before = self._tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            logits = self._model(torch.tensor([before + token_ids])).logits[0]
        assert token_ids == logits[len(before) - 1 : -1].argmax(-1).tolist(), prompt
        self._known.add((prompt, tuple(token_ids)))


@pytest.fixture(scope="module")
def reference(model: ModelSource) -> Reference:
    return Reference(model.path)


async def _answer_all(
    address: str,
) -> tuple[list[Answer], dict[int, admin_pb2.WorkerStatus]]:
    """Return the answers, and each role's worker.

    The load of a worker covers these answers alone.
    """
    limit = asyncio.Semaphore(_CONCURRENCY)
    async with AsyncClient(address) as client:
        before = await until_nothing_is_held(client)

        async def one(case: Case) -> Answer:
            sampling = inference_pb2.SamplingParams(max_tokens=case.max_tokens)
            async with limit:
                parts = [part async for part in client.stream(case.prompt, sampling)]
            assert [p.index for p in parts if p.token_ids] == list(range(len(parts)))
            token_ids = [token_id for part in parts for token_id in part.token_ids]
            return token_ids, "".join(part.text for part in parts)

        answers = await asyncio.gather(*(one(case) for case in CASES))
        return answers, _count_from(before, await until_nothing_is_held(client))


def _count_from(
    before: admin_pb2.StatusResponse, after: admin_pb2.StatusResponse
) -> dict[int, admin_pb2.WorkerStatus]:
    for worker, earlier in zip(after.workers, before.workers, strict=True):
        for name in _COUNTERS:
            setattr(worker.load, name, getattr(worker.load, name) - getattr(earlier.load, name))
    return {worker.role: worker for worker in after.workers}


def test_prefill_and_decode_processes_together_equal_transformers(
    served_float32: Served, reference: Reference
) -> None:
    answers, workers = asyncio.run(_answer_all(served_float32.grpc))
    reference.check(answers)
    prefill, decode = workers.pop(P), workers.pop(D)
    assert not workers
    # the KV was really transferred: two processes, and decode never ran a prompt token
    assert prefill.pid != decode.pid
    assert decode.load.prefill_tokens == 0
    assert decode.load.prefill_fallbacks == 0
    assert prefill.load.prefill_tokens > 2000
    assert decode.load.kv_bytes == prefill.load.kv_bytes
    bytes_per_token = 2 * 30 * 3 * 64 * 4  # K and V, layers, kv_heads, head_dim, float32
    # tokens in a role's prefix cache are not computed on prefill, and not sent to decode
    num_tokens = prefill.load.prefill_tokens + prefill.load.prefix_hit_tokens
    assert num_tokens == prefill.load.prefix_query_tokens == decode.load.prefix_query_tokens
    num_sent = num_tokens - decode.load.prefix_hit_tokens
    assert decode.load.kv_bytes == num_sent * bytes_per_token


def test_a_colocated_decode_worker_equals_transformers_and_stops_when_interrupted(
    model: ModelSource, reference: Reference
) -> None:
    flags = ("--dtype", "float32", "--prefill", "0", "--decode", "1")
    with serving(model.name, *flags, ended_by=signal.SIGINT) as served:
        answers, workers = asyncio.run(_answer_all(served.grpc))
    reference.check(answers)
    (decode,) = workers.values()
    assert decode.load.kv_bytes == 0
    assert decode.load.prefill_tokens > 2000
