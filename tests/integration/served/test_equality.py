"""Greedy text through all three processes equals that of `transformers`, in float32."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.engine.weights.resolve import ModelSource
from pdserve.client import AsyncClient
from pdserve.v1 import admin_pb2, inference_pb2
from tests.integration.support.processes import Served
from tests.integration.support.waiting import until_nothing_is_held
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import continue_greedily

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


@dataclass(frozen=True)
class Answer:
    """A prompt's continuation, and what the router says of it."""

    token_ids: list[int]
    text: str
    finished: inference_pb2.Finished


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
        for answer, case in zip(answers, CASES, strict=True):
            token_ids = answer.token_ids
            assert len(token_ids) == case.max_tokens or token_ids[-1] == _END
            assert _END not in token_ids[:-1]
            assert answer.text == self._tokenizer.decode(token_ids, skip_special_tokens=True)
            longest[case.prompt] = max(longest.get(case.prompt, []), token_ids, key=len)
        for prompt, token_ids in longest.items():
            self._check_likeliest(prompt, token_ids)
        shortest = min(longest, key=len)  # `generate` takes a second for each
        assert longest[shortest] == self._generate(shortest, len(longest[shortest]))
        for answer, case in zip(answers, CASES, strict=True):
            whole = longest[case.prompt]
            assert answer.token_ids == whole[: len(answer.token_ids)], case.prompt

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


async def _answer_all(client: AsyncClient, salt: str = "") -> list[Answer]:
    """Return the answers. With another salt no worker has the prompts in its cache."""
    limit = asyncio.Semaphore(_CONCURRENCY)

    async def one(case: Case) -> Answer:
        sampling = inference_pb2.SamplingParams(max_tokens=case.max_tokens)
        async with limit:
            stream = client.stream(case.prompt, sampling, cache_salt=salt)
            parts = [part async for part in stream]
        assert [p.index for p in parts if p.token_ids] == list(range(len(parts)))
        token_ids = [token_id for part in parts for token_id in part.token_ids]
        return Answer(token_ids, "".join(part.text for part in parts), parts[-1].finished)

    return await asyncio.gather(*(one(case) for case in CASES))


def _count_from(
    before: admin_pb2.StatusResponse, after: admin_pb2.StatusResponse
) -> list[admin_pb2.WorkerStatus]:
    """Return the workers, with loads that cover only what ran between the two."""
    for worker, earlier in zip(after.workers, before.workers, strict=True):
        for name in _COUNTERS:
            setattr(worker.load, name, getattr(worker.load, name) - getattr(earlier.load, name))
    return list(after.workers)


async def test_prefill_and_decode_processes_together_equal_transformers(
    served_float32: Served, reference: Reference
) -> None:
    async with AsyncClient(served_float32.grpc) as client:
        before = await until_nothing_is_held(client)
        answers = await _answer_all(client)
        workers = _count_from(before, await until_nothing_is_held(client))
    reference.check(answers)
    prefill, decode = sorted(workers, key=lambda worker: worker.role)
    assert (prefill.role, decode.role) == (P, D)
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


async def test_colocated_decode_workers_equal_transformers(
    served_float32: Served, reference: Reference
) -> None:
    async with AsyncClient(served_float32.grpc) as client, _without_prefill(client):
        answers = await _answer_all(client, "colocated")
    reference.check(answers)
    ends = [answer.finished for answer in answers]
    assert {(end.prefill_worker, end.timings.kv_bytes) for end in ends} == {("", 0)}
    assert sum(end.usage.prompt_tokens - end.usage.cached_tokens for end in ends) > 2000


@asynccontextmanager
async def _without_prefill(client: AsyncClient) -> AsyncIterator[None]:
    """Have two decode workers, and afterwards one of each role again."""
    await _scale(client, 0, 2)
    try:
        assert {worker.role for worker in (await client.status()).workers} == {D}
        yield
    finally:
        await until_nothing_is_held(client)
        await _scale(client, 1, 1)


async def _scale(client: AsyncClient, prefill: int, decode: int) -> None:
    async for _ in client.scale(prefill, decode, drain_timeout_s=WITHIN_S):
        pass
