"""Heads in every grouping, tied and not, windows, soft-caps: the tokens and logits of `transformers`."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import Backend
from common.engine.batch import Batch, BatchEntry
from common.engine.ragged import RaggedInputs
from pdserve.errors import SetupError
from tests.unit.common.engine.generation import continuations, lively_tokens
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

PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (21, 2, 39)]
NEW_TOKENS = 8
PATHS: list[tuple[Backend, str]] = [
    ("cpu", "auto"),
    ("cpu", "off"),
    ("reference", "auto"),
    ("reference", "off"),
]
KINDS: dict[str, dict[str, object]] = {
    "MHA, tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "GQA": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "MQA, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
}
GROUPED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text")
OTHERS: dict[str, tuple[str, dict[str, object]]] = {
    "gpt2, tied": ("gpt2", {"tie_word_embeddings": True}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.25}),
    "gpt_neox, in turn": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt_bigcode, MQA": ("gpt_bigcode", {"multi_query": True}),
    "gemma2, no cap on scores": ("gemma2", {"attn_logit_softcapping": None}),
    "qwen2, windows in the upper layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
}
CASES = {f"{name}, {kind}": (name, KINDS[kind]) for name in GROUPED for kind in KINDS} | OTHERS


@pytest.mark.parametrize("case", CASES)
def test_every_path_gives_transformers_tokens(tmp_path: Path, case: str) -> None:
    family, changes = CASES[case]
    folder = save_model(tmp_path, family, **changes)
    reference = load_reference(folder)
    expected = lively_tokens(reference, PROMPTS, NEW_TOKENS)
    for backend, fusion in PATHS:
        engine = make_engine(folder, engine_config(backend=backend, fusion=fusion, num_blocks=128))
        poison(engine)
        assert continuations(engine, PROMPTS, NEW_TOKENS, 13) == expected, (backend, fusion)


MIXED_LAYERS: dict[str, object] = {
    "num_hidden_layers": 4,
    "sliding_window": 5,
    "layer_types": [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
        "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
    },
}


@pytest.mark.parametrize(("backend", "fusion"), PATHS)
def test_local_and_global_layers_with_two_rotary_bases(
    tmp_path: Path, backend: Backend, fusion: str
) -> None:
    """Contexts of 20 windows, in chunks longer and shorter than the window of 5."""
    folder = save_model(tmp_path, "gemma3_text", **MIXED_LAYERS)
    reference = load_reference(folder)
    prompts = [PROMPTS[2] * 2 + PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    expected = [continue_greedily(reference, prompt, 12) for prompt in prompts]
    engine = make_engine(folder, engine_config(backend=backend, fusion=fusion, num_blocks=128))
    for budget in (4, 7, 64):
        poison(engine)
        assert continuations(engine, prompts, 12, budget) == expected, budget
    assert_same_logits(engine, reference, prompts[0])


@pytest.mark.parametrize(("backend", "fusion"), PATHS)
@pytest.mark.parametrize(
    ("family", "changes"),
    [("gemma3_text", {}), ("gemma2", {"attn_logit_softcapping": None})],
)
def test_a_soft_cap_on_the_logits(
    tmp_path: Path, family: str, changes: dict[str, object], backend: Backend, fusion: str
) -> None:
    """A soft cap changes no greedy token, so the logits must show it."""
    folder = save_model(tmp_path, family, **changes, final_logit_softcapping=20.0)
    reference = load_reference(folder)
    with torch.inference_mode():
        capped = reference(torch.tensor([PROMPTS[0]])).logits
    assert 15 < capped.abs().max() <= 20, "the cap bends nothing"
    engine = make_engine(folder, engine_config(backend=backend, fusion=fusion))
    assert_same_logits(engine, reference, PROMPTS[0])


@pytest.mark.parametrize("fusion", ["auto", "off"])
def test_a_soft_cap_on_scores_is_refused(tmp_path: Path, fusion: str) -> None:
    """`transformers` forgets it in Gemma3; the fused path has no place for it."""
    folder = save_model(tmp_path, "gemma3_text", attn_logit_softcapping=50.0)
    with pytest.raises(SetupError, match=r"Gemma3Attention \(layer 0\) asks for a soft cap"):
        make_engine(folder, engine_config(fusion=fusion))


def assert_same_logits(engine: Any, reference: Any, prompt: list[int]) -> None:
    seq = hold(engine.pool, make_sequence(prompt))
    for count in (len(prompt) - 1, 1):
        batch = Batch((BatchEntry(seq, count),))
        inputs = RaggedInputs.from_batch(batch, engine.pool.block_size)
        logits = engine.runner.logits(inputs)
        seq.num_computed_tokens += count
    engine.pool.release(seq.block_table)
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0, -1:]
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)
