"""Through router, prefill and decode processes, greedy text is what `transformers` generates. float32."""

import asyncio
import random
from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.engine.weights.resolve import ModelSource
from pdserve.client import AsyncClient
from pdserve.v1 import admin_pb2, inference_pb2
from tests.integration.processes import serving
from tests.integration.waiting import until_nothing_is_held

pytestmark = pytest.mark.timeout(300)

_CONCURRENCY = 16
_TOPICS = ("the sea", "a train in winter", "prime numbers", "bread", "the moon", "an old clock")
_FILLER = "It was a long day and everyone had something to say about it. "


@dataclass(frozen=True)
class Case:
    """A prompt and what `transformers` makes of it."""

    prompt: str
    max_tokens: int
    token_ids: list[int]
    text: str


@pytest.fixture(scope="module")
def cases(model: ModelSource) -> list[Case]:
    """40 prompts of 5 to 400 tokens, one after the other through the reference."""
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    reference = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    draw = random.Random(7)
    cases = []
    for index in range(40):
        repeats = draw.choice((0, 0, 1, 3, 8, 25)) if index else 25
        prompt = f"Tell me about {draw.choice(_TOPICS)}. {_FILLER * repeats}In short,"
        max_tokens = draw.randint(2, 20)
        inputs = tokenizer(prompt, return_tensors="pt")
        output = reference.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        token_ids = output[0, inputs["input_ids"].shape[1] :].tolist()
        text = tokenizer.decode(token_ids, skip_special_tokens=True)
        cases.append(Case(prompt, max_tokens, token_ids, text))
    return cases


async def _answer_all(
    address: str, cases: list[Case]
) -> tuple[list[tuple[list[int], str]], admin_pb2.StatusResponse]:
    limit = asyncio.Semaphore(_CONCURRENCY)
    async with AsyncClient(address) as client:

        async def one(case: Case) -> tuple[list[int], str]:
            sampling = inference_pb2.SamplingParams(max_tokens=case.max_tokens)
            async with limit:
                parts = [part async for part in client.stream(case.prompt, sampling)]
            assert [p.index for p in parts if p.token_ids] == list(range(len(parts)))
            token_ids = [token_id for part in parts for token_id in part.token_ids]
            return token_ids, "".join(part.text for part in parts)

        answers = await asyncio.gather(*(one(case) for case in cases))
        return answers, await until_nothing_is_held(client)


def _check(answers: list[tuple[list[int], str]], cases: list[Case]) -> None:
    assert len(answers) == 40
    for (token_ids, text), case in zip(answers, cases, strict=True):
        assert token_ids == case.token_ids, case.prompt
        assert text == case.text, case.prompt


def test_prefill_and_decode_processes_together_equal_transformers(
    model: ModelSource, cases: list[Case]
) -> None:
    # the policy that sends every prompt to the prefill pool
    roles = ("--prefill", "1", "--decode", "1", "--policy", "least_loaded")
    with serving(model.name, "--dtype", "float32", *roles) as served:
        answers, status = asyncio.run(_answer_all(served.grpc, cases))
    _check(answers, cases)
    prefill, decode = status.workers
    assert (prefill.role, decode.role) == (
        admin_pb2.WORKER_ROLE_PREFILL,
        admin_pb2.WORKER_ROLE_DECODE,
    )
    # the KV really travelled: two processes, and decode never ran a prompt token
    assert prefill.pid != decode.pid
    assert decode.load.prefill_tokens == 0
    assert decode.load.prefill_fallbacks == 0
    assert prefill.load.prefill_tokens > 2000
    assert decode.load.kv_bytes == prefill.load.kv_bytes
    bytes_per_token = 2 * 30 * 3 * 64 * 4  # K and V, layers, kv_heads, head_dim, float32
    # of all prompts' tokens, what a role's prefix cache holds is not computed there, or not sent there
    num_tokens = prefill.load.prefill_tokens + prefill.load.prefix_hit_tokens
    assert num_tokens == prefill.load.prefix_query_tokens == decode.load.prefix_query_tokens
    num_sent = num_tokens - decode.load.prefix_hit_tokens
    assert decode.load.kv_bytes == num_sent * bytes_per_token


def test_a_colocated_decode_worker_equals_transformers(
    model: ModelSource, cases: list[Case]
) -> None:
    with serving(model.name, "--dtype", "float32", "--prefill", "0", "--decode", "1") as served:
        answers, status = asyncio.run(_answer_all(served.grpc, cases))
    _check(answers, cases)
    (decode,) = status.workers
    assert decode.load.kv_bytes == 0
    assert decode.load.prefill_tokens > 2000
