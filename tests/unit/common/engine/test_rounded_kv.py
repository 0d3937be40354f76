"""8-bit keys and values of every kind of model: the tokens of `transformers` over the same numbers."""

import random
from pathlib import Path

import pytest
import torch

from common.engine.build import Engine
from common.engine.memory.quantized_kv import LEVELS
from common.engine.own_rounding import rounded, rounded_kv
from tests.unit.common.engine.generation import answers, continuations
from tests.unit.common.engine.rounded_kv import likeliest_rounded, stored_levels
from tests.unit.common.engine.state.hybrids import HYBRIDS, save_hybrid
from tests.unit.common.engine.tiny_models import (
    FAMILIES,
    VOCAB,
    engine_config,
    load_reference,
    make_engine,
    poison,
    save_model,
)

PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (5, 17, 40, 100)]
NEW_TOKENS = 10
# windows, sinks, soft caps, chunks, head sizes by layer, latents, and states of every kind
QUICK = {
    *("mistral", "gpt_oss", "gemma2", "llama4_text", "gemma4_text", "deepseek_v3", "minicpm3"),
    *("qwen3_next", "granitemoehybrid", "falcon_h1", "nemotron_h", "lfm2", "kimi_linear"),
}
# sizes that no vector tiles, and that fill no whole words
ODD: dict[str, tuple[str, dict[str, object]]] = {
    "heads of 18 channels": ("llama", {"head_dim": 18}),
    "heads of 20 channels": ("llama", {"head_dim": 20}),
    "latents of 22 channels": ("deepseek_v3", {"kv_lora_rank": 22, "qk_rope_head_dim": 12}),
    "blocks that share KV": ("gemma4_text", {"num_kv_shared_layers": 2}),
}


def slow_unless_quick(names: dict[str, dict[str, object]]) -> list[object]:
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]


def engine_of(folder: Path, backend: str, form: str = "int8", **changes: object) -> Engine:
    fields = {"num_blocks": 600, "max_num_seqs": 8, "kv_cache_dtype": form} | changes
    return make_engine(folder, engine_config(backend=backend, **fields))  # type: ignore[arg-type]


def assert_rounded_tokens(folder: Path) -> None:
    """Run all prompts together, in chunks of at most 32 tokens, on each backend that has the form."""
    reference = load_reference(folder)
    for backend, form in (("auto", "int8"), ("reference", "int8"), ("reference", "fp8")):
        engine = engine_of(folder, backend, form)
        assert engine.cache.is_quantized
        poison(engine)
        found = answers(engine, PROMPTS, NEW_TOKENS, 32)
        for prompt, answer in zip(PROMPTS, found, strict=True):
            levels = stored_levels(form, answer.kv)
            likeliest = likeliest_rounded(reference, prompt, answer.tokens, levels)
            assert answer.tokens == likeliest, form
            assert next(levels.stored, None) is None, "keys or values that were not rounded"
        assert len({token for answer in found for token in answer.tokens}) >= 3, "not lively"


@pytest.mark.parametrize("family", slow_unless_quick(FAMILIES))
def test_tokens_are_those_over_rounded_keys_and_values(tmp_path: Path, family: str) -> None:
    assert_rounded_tokens(save_model(tmp_path, family))


@pytest.mark.parametrize("family", slow_unless_quick(HYBRIDS))
def test_tokens_of_models_with_state_are_too(tmp_path: Path, family: str) -> None:
    """States stay as they are."""
    assert_rounded_tokens(save_hybrid(tmp_path, family))


@pytest.mark.parametrize("case", ODD)
def test_sizes_may_be_any(tmp_path: Path, case: str) -> None:
    family, changes = ODD[case]
    assert_rounded_tokens(save_model(tmp_path, family, **changes))


def test_blocks_may_have_any_number_of_positions(tmp_path: Path) -> None:
    folder = save_hybrid(tmp_path, "falcon_h1")
    [expected, found] = (
        continuations(engine_of(folder, "reference", block_size=size), PROMPTS, NEW_TOKENS, 32)
        for size in (16, 5)
    )
    assert found == expected


def test_only_attention_is_rounded_in_a_hybrid(tmp_path: Path) -> None:
    """Two layers have two heads of keys and of values, each of 4 words and a scale; states are as before."""
    folder = save_hybrid(tmp_path, "qwen3_next")
    full = make_engine(folder, engine_config(num_blocks=600, max_num_seqs=8))
    small = engine_of(folder, "auto")
    assert small.cache.num_bytes_per_token == 2 * 2 * 2 * (16 + 4)
    assert small.spec.state == full.spec.state
    assert small.spec.state_layers == (0, 2)


@pytest.mark.parametrize("form", LEVELS)
def test_the_oracle_rounds(tmp_path: Path, form: str) -> None:
    """Else the tests above would prove nothing: a level is at most half a step from its number."""
    numbers = torch.randn(3, 5, 18)
    largest = numbers.abs().amax(-1, keepdim=True)
    steps = largest / 127 if form == "int8" else (numbers.abs() / 8).clamp(largest / 448 / 512)
    errors = (rounded(numbers, LEVELS[form]) - numbers).abs()
    assert 0.3 < float((errors / steps).max()) < 0.51
    for family in ("gpt_oss", "deepseek_v3"):
        reference = load_reference(save_model(tmp_path / family, family))
        ids = torch.tensor([PROMPTS[2]])
        with torch.inference_mode():
            full = reference(ids, use_cache=True).logits
            with rounded_kv(reference, LEVELS[form]):
                other = reference(ids, use_cache=True).logits
            again = reference(ids, use_cache=True).logits
        assert torch.equal(again, full)
        assert 1e-3 < float((other - full).norm() / full.norm()) < 0.5


@pytest.mark.parametrize(
    ("form", "number", "levels"), [("int8", 10.50001, (10.0, 11.0)), ("fp8", 9.50001, (9.0, 10.0))]
)
def test_only_a_number_between_two_levels_may_go_to_either(
    form: str, number: float, levels: tuple[float, float]
) -> None:
    """Else the oracle would follow an engine that rounds wrongly."""
    largest = 127.0 if form == "int8" else 448.0
    numbers = torch.tensor([largest, number, 9.3]).reshape(1, 1, 1, 3)
    for level in levels:
        stored = torch.tensor([largest, level, 10.0]).reshape(1, 1, 3)
        found = rounded(numbers, stored_levels(form, [(stored, stored)]))
        assert torch.allclose(found.flatten(), torch.tensor([largest, level, 9.0]), rtol=1e-5)
