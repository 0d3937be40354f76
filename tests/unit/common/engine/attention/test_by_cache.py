"""Modules that write attention out by hand: the tokens of `transformers`, and what is refused."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import softmax
from transformers import PreTrainedConfig

from common.config import Backend
from common.engine.attention.by_cache import HandingCache, handed_over
from common.engine.attention.form import UnsupportedAttentionError
from common.engine.attention.reference import ReferenceBackend
from common.engine.memory.kv_cache import KVCache
from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import KVShape
from tests.unit.common.engine.generation import continuations, lively_tokens
from tests.unit.common.engine.test_shapes import assert_same_logits
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    load_reference,
    make_engine,
    poison,
    save_model,
)

PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (70, 5, 300)]
NEW_TOKENS = 8
NO_ENDS: dict[str, object] = {"bos_token_id": None, "eos_token_id": None}
SHAPE: dict[str, object] = {
    **NO_ENDS,
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
GPT: dict[str, object] = {
    **NO_ENDS,
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "rotary_dim": 8,
    "tie_word_embeddings": False,
}
LOCAL: dict[str, object] = {
    **SHAPE,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["local", "global"], 1]],
    "window_size": 8,
}
CASES: dict[str, tuple[str, dict[str, object], KVShape]] = {
    "gpt-j": ("gptj", GPT, KVShape(4, 16, 16)),
    "gpt-neo, windows in a layer": ("gpt_neo", LOCAL, KVShape(4, 16, 16)),
    "gpt-neox japanese": ("gpt_neox_japanese", SHAPE, KVShape(4, 16, 16)),
    "falcon 7b, one KV head": (
        "falcon",
        {**SHAPE, "hidden_size": 32, "num_attention_heads": 2},
        KVShape(1, 16, 16),
    ),
    "falcon 40b, repeated KV heads": (
        "falcon",
        {**SHAPE, "new_decoder_architecture": True, "num_kv_heads": 2},
        KVShape(2, 16, 16),
    ),
    "falcon rw, biases of rounded ALiBi in keys": (
        "falcon",
        {**SHAPE, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        KVShape(4, 32, 16),
    ),
    "stablelm": (
        "stablelm",
        {**SHAPE, "num_key_value_heads": 2, "intermediate_size": 128},
        KVShape(2, 16, 16),
    ),
}
SPEC = ModelSpec(1, 2, 1, 16, VOCAB, 64, frozenset(), "float32", "model")


@pytest.mark.parametrize("case", CASES)
def test_tokens_and_logits_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    family, fields, shape = CASES[case]
    folder = save_model(tmp_path, family, **fields)
    reference = load_reference(folder)
    expected = lively_tokens(reference, PROMPTS, NEW_TOKENS)
    backends: tuple[Backend, ...] = ("cpu", "reference")
    for backend in backends:
        engine = make_engine(folder, engine_config(backend=backend, num_blocks=128))
        assert engine.cache.shapes == (shape,) * 2
        poison(engine)
        assert continuations(engine, PROMPTS, NEW_TOKENS, 40) == expected, backend
        assert_same_logits(engine, reference, PROMPTS[0])


def test_the_window_of_a_mask_of_its_own_changes_the_logits(tmp_path: Path) -> None:
    """Else the test above would prove nothing of GPT-Neo's local layers."""
    models = []
    for window in (8, 400):
        folder = save_model(tmp_path / str(window), "gpt_neo", **{**LOCAL, "window_size": window})
        models.append(load_reference(folder))
    with torch.inference_mode():
        ids = torch.tensor([PROMPTS[0]])
        found, without = (model(ids).logits[0, -1] for model in models)
    assert (found - without).abs().max() > 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda scores: scores + torch.ones(16), "changes its scores by add"),
        (lambda scores: scores * torch.ones(16), "changes its scores by mul"),
        (torch.tanh, "changes its scores by tanh"),
        (lambda scores: torch.where(torch.ones(16, dtype=torch.bool), scores, 0.0), "by where"),
        (lambda scores: scores[..., :3], "changes its scores by getitem"),
        (lambda scores: softmax(scores, dim=-2), "takes a softmax over dimension -2"),
        (lambda scores: softmax(scores.transpose(-1, -2), dim=-1), "takes a softmax over"),
    ],
)
def test_what_is_more_than_scaling_is_refused(change: Callable[[Any], Any], reason: str) -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 16).unbind()
    keys, _ = handing_cache().update(key[:, :1], value[:, :1], 0)
    with pytest.raises(UnsupportedAttentionError, match=f"layer 0 .*{reason}"):
        change(query @ keys.transpose(-1, -2))


def test_no_mask_changes_nothing_and_other_tensors_are_nobodys_keys() -> None:
    keys, values = handing_cache().update(torch.randn(1, 1, 5, 16), torch.randn(1, 1, 5, 16), 0)
    scores = torch.randn(1, 2, 5, 16) @ keys
    assert scores + None is scores
    assert handed_over(scores) is not None
    assert handed_over(values) is None


def handing_cache() -> HandingCache:
    """Return a cache over a model of one layer with one KV head."""
    cpu = torch.device("cpu")
    backend = ReferenceBackend(KVCache(SPEC, 2, 16, cpu, "pages"))
    return HandingCache(PreTrainedConfig(), backend)
