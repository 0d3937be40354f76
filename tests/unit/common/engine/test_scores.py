"""Attention with more than a scale and a window passed on: the tokens and logits of `transformers`."""

import random
from pathlib import Path

import pytest
import torch

from common.config import Backend
from common.engine.attention.form import ALIBI, CHUNKS, SINKS, SOFTCAP
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
CASES: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "gpt_oss": ({}, (SINKS,)),
    "granite_swa": ({}, (SINKS,)),
    "granitemoe_swa": ({}, (SINKS,)),
    "flint": ({}, (SINKS,)),
    "mimo_v2_flash": ({}, (SINKS,)),
    "mimo_v2_flash, wide values": ({"num_attention_heads": 4, "v_head_dim": 32}, (SINKS,)),
    "gemma2": ({"attn_logit_softcapping": 2.0}, (SOFTCAP,)),
    "vaultgemma": ({}, (SOFTCAP,)),
    "llama4_text": ({}, (CHUNKS,)),
    "qwen2_moe": ({}, ()),
    "phimoe": ({}, ()),
    "bloom": ({}, (ALIBI,)),
    "bloom, six heads": ({"n_head": 6, "hidden_size": 96}, (ALIBI,)),
    "mpt": ({}, (ALIBI,)),
    "mpt, clipped": ({"attn_config": {"clip_qkv": 1.5, "softmax_scale": 0.1}}, (ALIBI,)),
}


# three kernels of its own
SLOW = {"mimo_v2_flash, wide values"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES]
)
def test_tokens_and_logits_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    changes, extras = CASES[case]
    folder = save_model(tmp_path, case.split(",")[0], **changes)
    reference = load_reference(folder)
    expected = lively_tokens(reference, PROMPTS, NEW_TOKENS)
    backends: tuple[Backend, ...] = ("cpu", "reference")
    for backend in backends:
        engine = make_engine(folder, engine_config(backend=backend, num_blocks=128))
        assert engine.spec.extras == extras
        poison(engine)
        assert continuations(engine, PROMPTS, NEW_TOKENS, 40) == expected, backend
        assert_same_logits(engine, reference, PROMPTS[0])


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("gpt_oss", "sinks", -1e4),
        ("vaultgemma", "attn_logit_softcapping", None),
        ("llama4_text", "attention_chunk_size", 400),
        ("llama4_text", "attn_temperature_tuning", False),
        ("qwen2_moe", "sliding_window", 400),
        ("phimoe", "sliding_window", 400),
    ],
)
def test_what_is_honoured_changes_the_logits(
    tmp_path: Path, family: str, name: str, value: object
) -> None:
    """Else the test above would prove nothing."""
    folder = save_model(tmp_path / "with", family)
    reference = load_reference(folder)
    changes = {} if name == "sinks" else {name: value}
    other = load_reference(save_model(tmp_path / "without", family, **changes))
    other.load_state_dict(reference.state_dict())
    for layer in other.model.layers if name == "sinks" else ():
        torch.nn.init.constant_(layer.self_attn.sinks, value)
    with torch.inference_mode():
        ids = torch.tensor([PROMPTS[0]])
        found, without = (model(ids).logits[0, -1] for model in (reference, other))
    assert (found - without).abs().max() > 0.1


def test_a_chunk_that_no_context_fills_is_no_extra(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama4_text", attention_chunk_size=512)
    engine = make_engine(folder, engine_config(num_blocks=128))
    assert engine.spec.extras == ()
    reference = load_reference(folder)
    assert_same_logits(engine, reference, PROMPTS[0])
