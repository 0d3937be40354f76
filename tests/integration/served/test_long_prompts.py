"""Prompts whose answers fill the context to its last position, through both roles."""

import asyncio
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.engine.weights.resolve import ModelSource
from common.messages import FinishReason, SamplingParams
from pdserve.client import AsyncClient
from pdserve.errors import InvalidRequestError, Reason
from pdserve.v1 import inference_pb2
from tests.integration.support.in_process_workers import Workers, load_now
from tests.integration.support.processes import serving
from tests.integration.support.waiting import until_nothing_is_held
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    save_model,
)

CONTEXT = 8192
NEW_TOKENS = 4


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_tiny_model_fills_its_context(tmp_path: Path, family: str) -> None:
    """Fill it with a hand-off in chunks of 512 beside a short prompt, and by decode alone."""
    folder = save_model(tmp_path, family, max_position_embeddings=CONTEXT)
    draw = random.Random(1)
    prompts = {
        "long": draw.choices(range(VOCAB), k=CONTEXT - NEW_TOKENS),
        "short": draw.choices(range(VOCAB), k=5),
    }
    reference = load_reference(folder)
    expected = {n: continue_greedily(reference, p, NEW_TOKENS) for n, p in prompts.items()}
    config = engine_config(num_blocks=CONTEXT // 16 + 8)
    greedy = SamplingParams(temperature=0.0, seed=0, max_tokens=NEW_TOKENS)
    with Workers(folder, prefill_config=config, decode_config=config) as workers:
        for where, prefill in (("apart", "prefill-0"), ("alone", None)):
            for name, prompt in prompts.items():
                # salted, so that the second turn does not find the first one's KV
                workers.submit(f"{name} {where}", prompt, greedy, prefill=prefill, salt=where)
            for name, tokens in expected.items():
                answer = workers.answers.finished(f"{name} {where}")
                assert (answer.tokens, answer.finish_reason) == (tokens, FinishReason.LENGTH)
        workers.check_at_rest()
        assert load_now(workers.decode).prefill_fallbacks == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_default_model_fills_its_context_over_ray(model: ModelSource) -> None:
    reference = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    vocab_size, context = reference.config.vocab_size, reference.config.max_position_embeddings
    assert context == CONTEXT
    prompt = random.Random(2).choices(range(vocab_size), k=CONTEXT - NEW_TOKENS)
    expected = continue_greedily(reference, prompt, NEW_TOKENS)
    # the default policy lets decode run a prompt where that is sooner by this machine's profile
    with serving(model.name, "--dtype", "float32", "--policy", "least_loaded") as served:
        tokens = asyncio.run(fill_context(served.grpc, prompt))
    assert tokens == expected


async def fill_context(address: str, prompt: list[int]) -> list[int]:
    """Return the answer to the prompt; check that a prompt of one more token is refused."""
    sampling = inference_pb2.SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True)
    async with AsyncClient(address) as client:
        with pytest.raises(InvalidRequestError, match=r"8189 .* 4 exceed the context of 8192") as e:
            async for _ in client.stream([5, *prompt], sampling):
                pass
        assert e.value.reason is Reason.CONTEXT_EXCEEDED
        parts = [part async for part in client.stream(prompt, sampling)]
        status = await until_nothing_is_held(client)
    prefill, decode = status.workers
    assert decode.load.prefill_tokens == decode.load.prefill_fallbacks == 0
    assert prefill.load.prefill_tokens == len(prompt)
    return [token_id for part in parts for token_id in part.token_ids]
