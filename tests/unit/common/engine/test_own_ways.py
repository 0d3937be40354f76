"""Decoders that count positions, attend or keep KV in a way of their own: the tokens of `transformers`."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import Backend
from pdserve.errors import SetupError
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.test_shapes import assert_same_logits
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    load_reference,
    make_engine,
    poison,
    save_model,
)

CONTEXT, NEW_TOKENS = 128, 8
PAD = 1  # in no prompt
PROMPTS = [random.Random(n).choices(range(3, VOCAB), k=n) for n in (40, 5, 100)]
_SHAPE: dict[str, object] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": PAD,
}
_BERT = _SHAPE | {"is_decoder": True}
_BART: dict[str, object] = {
    "vocab_size": VOCAB,
    "d_model": 64,
    # an encoder of another size, which nobody builds
    "encoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": PAD,
}
_LLAMA = {name: value for name, value in _SHAPE.items() if name != "pad_token_id"}
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "positions behind those of padding": ("roberta", _BERT),
    "positions behind two rows": ("bart", _BART),
    "a cache by hand": ("big_bird", {**_BERT, "attention_type": "original_full"}),
    "a cache by hand, positions that turn queries": ("roformer", {**_BERT, "embedding_size": 64}),
    "a cache by hand, positions behind two rows": ("mvp", _BART),
    "no cache": (
        "openai-gpt",
        {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT},
    ),
    "two passes over halves of values": ("diffllama", {**_LLAMA, "num_key_value_heads": 2}),
    "experts with the same keys": (
        "jetmoe",
        {**_LLAMA, "num_key_value_heads": 2, "kv_channels": 16, "num_local_experts": 4},
    ),
    "layers in cycles": ("hrm_text", {**_LLAMA, "head_dim": 16, "num_hidden_layers": 1}),
}


def by_whole_passes(reference: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """Return the likeliest tokens; `generate` counts RoBERTa's positions otherwise than its model does."""
    ids = list(prompt)
    for _ in range(num_tokens):
        with torch.inference_mode():
            ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("case", CASES)
def test_tokens_and_logits_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    """Steps of 24 tokens cut the prompts; one of 145 is longer than the context."""
    family, changes = CASES[case]
    folder = save_model(tmp_path, family, **changes)
    reference = load_reference(folder)
    expected = [by_whole_passes(reference, prompt, NEW_TOKENS) for prompt in PROMPTS]
    assert len({token for tokens in expected for token in tokens}) >= 3, "not lively"
    backends: tuple[Backend, ...] = ("cpu", "reference")
    for backend in backends:
        engine = make_engine(folder, engine_config(backend=backend, num_blocks=400))
        for budget in (24, 145):
            poison(engine)
            assert continuations(engine, PROMPTS, NEW_TOKENS, budget) == expected, backend
        assert_same_logits(engine, reference, PROMPTS[0])


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("roberta", r"SelfAttention \(layer 0\) asks for attention to later positions"),
        ("megatron-bert", "is_decoder is false, so it sees later positions"),
    ],
)
def test_an_encoder_is_refused(tmp_path: Path, family: str, reason: str) -> None:
    folder = save_model(tmp_path, family, **(_SHAPE | {"is_decoder": False}))
    with pytest.raises(SetupError, match=reason):
        make_engine(folder, engine_config())


@pytest.mark.parametrize("language", [None, "xx_YY"])
def test_a_model_of_many_languages_needs_one_of_them(tmp_path: Path, language: str | None) -> None:
    others = {"languages": ["de_DE", "en_XX", "fr_XX"], "default_language": language}
    folder = save_model(tmp_path, "xmod", **_BERT, **others)
    reason = rf"config\.json: default_language is {language!r}"
    with pytest.raises(SetupError, match=reason) as caught:
        make_engine(folder, engine_config())
    assert "one of its `languages`, such as de_DE, en_XX" in caught.value.remedy


@pytest.mark.parametrize("family", ["roberta", "xmod"])
def test_rows_for_padding_are_no_part_of_the_context(tmp_path: Path, family: str) -> None:
    languages = {"default_language": "en_XX"} if family == "xmod" else {}
    engine = make_engine(save_model(tmp_path, family, **_BERT, **languages), engine_config())
    assert engine.spec.max_context_tokens == CONTEXT - PAD - 1
    prompt = random.Random(0).choices(range(3, VOCAB), k=CONTEXT - PAD - 2)
    reference: Any = load_reference(tmp_path)
    expected = by_whole_passes(reference, prompt, 1)
    assert continuations(engine, [prompt], 1, 50) == [expected]
