"""A checkpoint that also speaks is served for text by its thinker; the parts that make sound are left out."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.survey.fields import VOCAB
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import engine_config, make_engine
from tests.unit.common.engine.weights.edited import add, edit, edit_config
from tests.unit.common.engine.weights.loading import load, refusal
from tests.unit.common.engine.weights.tiny_multimodal import save_tiny

TEXT = random.Random(5).choices(range(3, 90), k=90)
NEW = 8
SPEAKING = {"qwen2_5_omni": "token2wav", "qwen3_omni_moe": "code2wav"}


@pytest.mark.parametrize("family", SPEAKING)
def test_text_gets_the_tokens_of_the_thinker(tmp_path: Path, family: str) -> None:
    thinker = save_tiny(tmp_path, family).thinker
    prompts = [TEXT[:70], TEXT[70:75]]
    expected = [_own_tokens(thinker, prompt) for prompt in prompts]
    engine = make_engine(tmp_path, engine_config(backend="reference"))
    assert engine.spec.vocab_size == VOCAB
    assert continuations(engine, prompts, NEW, budget=23) == expected


@pytest.mark.parametrize("family", SPEAKING)
def test_only_weights_that_make_sound_are_left_out(tmp_path: Path, family: str) -> None:
    save_tiny(tmp_path, family)
    for name in ("talker.model.norm.weight", f"{SPEAKING[family]}.conv.weight"):
        edit(tmp_path, add(name, torch.zeros(3)))
    assert all(name.startswith(("model.", "lm_head.")) for name in load(tmp_path).state_dict())
    edit(tmp_path, add("thinker.model.layers.7.extra", torch.zeros(1)))
    assert "nothing uses the tensor" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    ("whole", "thinker"),
    [
        ("Qwen2_5OmniModel", "Qwen2OmniNaViTThinkerForConditionalGeneration"),
        ("Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniThinkerForConditionalGeneration"),
        ("Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5OmniThinkerModel"),
    ],
)
def test_names_that_real_folders_give_are_known(tmp_path: Path, whole: str, thinker: str) -> None:
    _save_named(tmp_path, whole, thinker)
    load(tmp_path)


@pytest.mark.parametrize("name", ["Qwen2_5OmniForSequenceClassification", "Whatever"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_model_of_another_kind_is_refused_by_its_name(
    tmp_path: Path, name: str, is_whole: bool
) -> None:
    whole, thinker = "Qwen2_5OmniModel", "Qwen2_5OmniThinkerModel"
    _save_named(tmp_path, name if is_whole else whole, thinker if is_whole else name)
    assert f"config.json: {name} is no causal LM" in str(refusal(tmp_path))


def _save_named(folder: Path, whole: str, thinker: str) -> None:
    save_tiny(folder, "qwen2_5_omni")
    inner = json.loads((folder / "config.json").read_text())["thinker_config"]
    edit_config(folder, architectures=[whole], thinker_config=inner | {"architectures": [thinker]})


def _own_tokens(thinker: Any, prompt: list[int]) -> list[int]:
    """Return the likeliest tokens by whole forward passes: its `generate` asks for ids of images."""
    ids = list(prompt)
    for _ in range(NEW):
        with torch.inference_mode():
            ids.append(int(thinker(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]
