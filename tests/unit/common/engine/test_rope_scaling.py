"""Rotary scaling of every kind, up to the context's last position, in batches of long and short sequences.

Dynamic NTK and LongRoPE choose their angles by the longest position of a call: in a ragged batch a long
sequence would turn its neighbours' keys. It cannot: no context reaches the length where they do, or LongRoPE
holds to one set of factors.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from common.config import Backend
from common.engine.batch import Batch, cut_chunks
from common.engine.build import Engine
from common.engine.ragged import RaggedInputs
from common.engine.weights.spec import max_context_tokens
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
    poison,
    save_model,
)

TEXT = random.Random(11).choices(range(VOCAB), k=300)
THETA = {"rope_theta": 100.0}
SHORT, LONG = [1.0, 1.1, 1.3, 1.7], [4.0, 5.0, 7.0, 9.0]
LONGROPE = THETA | {"rope_type": "longrope", "short_factor": SHORT * 2, "long_factor": LONG * 2}
PHI3_LONGROPE = LONGROPE | {"short_factor": SHORT, "long_factor": LONG}
LLAMA3: dict[str, object] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = THETA | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48}
LINEAR = THETA | {"rope_type": "linear", "factor": 4.0}
# the family, its scaling, and the context's limit; max_position_embeddings is 192
CASES: dict[str, tuple[str, dict[str, object], int]] = {
    "linear": ("llama", {"rope_parameters": LINEAR}, 192),
    "dynamic": ("llama", {"rope_parameters": LINEAR | {"rope_type": "dynamic"}}, 192),
    "yarn": ("llama", {"rope_parameters": YARN}, 192),
    "yarn, Qwen2": ("qwen2", {"rope_parameters": YARN | {"attention_factor": 1.3}}, 192),
    "llama3": ("llama", {"rope_parameters": THETA | LLAMA3}, 192),
    "longrope": (
        "llama",
        {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 96, "factor": 2.0}},
        96,
    ),
    "longrope, Phi3": (
        "phi3",
        {"rope_parameters": PHI3_LONGROPE, "original_max_position_embeddings": 96},
        96,
    ),
    "dynamic, GPT-NeoX": ("gpt_neox", {"rope_parameters": LINEAR | {"rope_type": "dynamic"}}, 192),
    "linear, in Gemma3's global layers": (
        "gemma3_text",
        {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
                "full_attention": LINEAR,
            }
        },
        192,
    ),
}


def plain(family: str) -> dict[str, object]:
    """Return the same rotary embedding, not scaled."""
    default = THETA | {"rope_type": "default"}
    if family != "gemma3_text":
        return {"rope_parameters": default}
    return {"rope_parameters": dict.fromkeys(("sliding_attention", "full_attention"), default)}


@pytest.mark.parametrize(("backend", "fusion"), [("cpu", "auto"), ("reference", "off")])
@pytest.mark.parametrize("case", CASES)
def test_long_and_short_sequences_side_by_side_give_what_each_gives_alone(
    tmp_path: Path, case: str, backend: Backend, fusion: str
) -> None:
    family, changes, limit = CASES[case]
    folder = save_model(tmp_path, family, max_position_embeddings=192, **changes)
    assert max_context_tokens(AutoConfig.from_pretrained(folder)) == limit
    reference = load_reference(folder)
    prompts = [TEXT[:limit], TEXT[5:8], TEXT[20:60], TEXT[9 : 9 + limit // 2]]
    expected = torch.stack([own_logits(reference, prompt) for prompt in prompts])
    engine = make_engine(folder, engine_config(backend=backend, fusion=fusion, num_blocks=128))
    for budget in (23, 500):
        poison(engine)
        logits = torch.stack(ragged_logits(engine, prompts, budget))
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-4)
    new_tokens = 5
    prompts = [TEXT[: limit - new_tokens], TEXT[5:8]]
    tokens = [continue_greedily(reference, prompt, new_tokens) for prompt in prompts]
    assert continuations(engine, prompts, new_tokens, 50) == tokens


@pytest.mark.parametrize("case", CASES)
def test_the_scaling_shows(tmp_path: Path, case: str) -> None:
    """The test above would otherwise prove little. Dynamic NTK alone waits for a longer context."""
    family, changes, limit = CASES[case]
    logits = []
    for name, rope in (("scaled", changes), ("plain", plain(family))):
        folder = save_model(tmp_path / name, family, max_position_embeddings=192, **rope)
        logits.append(own_logits(load_reference(folder), TEXT[:limit]))
    scaled, unscaled = logits
    assert torch.equal(scaled, unscaled) == case.startswith("dynamic")
    assert (scaled - unscaled).abs().max() > 0.05 or case.startswith("dynamic")


@pytest.mark.parametrize(("backend", "fusion"), [("cpu", "auto"), ("reference", "off")])
@pytest.mark.parametrize("case", ["longrope", "longrope, Phi3"])
def test_a_context_beyond_the_original_length_has_longropes_long_factors(
    tmp_path: Path, case: str, backend: Backend, fusion: str
) -> None:
    family, changes, original = CASES[case]
    folder = save_model(tmp_path, family, max_position_embeddings=192, **changes)
    context, new_tokens = original + 60, 5
    beyond = [TEXT[: original + 1], TEXT[3 : 3 + context - new_tokens]]
    within = [TEXT[5:8], TEXT[20:60]]
    reference = load_reference(folder)
    expected = [continue_greedily(reference, prompt, new_tokens) for prompt in beyond]
    with_short = [continue_greedily(reference, prompt, new_tokens) for prompt in within]
    hold_long_factors(reference)
    with_long = [continue_greedily(reference, prompt, new_tokens) for prompt in within]
    assert with_long != with_short
    config = engine_config(
        backend=backend, fusion=fusion, num_blocks=128, max_context_tokens=context
    )
    engine = make_engine(folder, config)
    poison(engine)
    assert engine.spec.max_context_tokens == context
    assert continuations(engine, [*beyond, *within], new_tokens, 50) == expected + with_long


def hold_long_factors(reference: Any) -> None:
    """Let the rotary module of `transformers` take its long factors for short texts too."""
    rotary = reference.model.rotary_emb
    factors = torch.tensor(rotary.config.rope_parameters["long_factor"])
    exponents = torch.arange(len(factors)) / len(factors)
    rotary.original_inv_freq.copy_(1 / (factors * THETA["rope_theta"] ** exponents))


def own_logits(reference: Any, prompt: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = reference(torch.tensor([prompt])).logits[0, -1]
    return logits


def ragged_logits(engine: Engine, prompts: list[list[int]], budget: int) -> list[torch.Tensor]:
    """Return the row behind each prompt, all run together in steps of at most `budget` tokens."""
    sequences = [hold(engine.pool, make_sequence(prompt)) for prompt in prompts]
    rows: dict[int, torch.Tensor] = {}
    while unfinished := [seq for seq in sequences if seq.num_uncomputed_tokens]:
        batch = Batch(tuple(cut_chunks(unfinished, budget)))
        logits = iter(engine.runner.logits(RaggedInputs.from_batch(batch, engine.pool.block_size)))
        for entry in batch.entries:
            if entry.samples:
                rows[sequences.index(entry.seq)] = next(logits).clone()
            entry.seq.num_computed_tokens += entry.num_tokens
    for seq in sequences:
        engine.pool.release(seq.block_table)
    return [rows[index] for index in range(len(prompts))]
