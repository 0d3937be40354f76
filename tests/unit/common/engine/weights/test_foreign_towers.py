"""A checkpoint whose tower timm computes is served for text where timm is not installed."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TimmWrapperConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_MAPPING, MODEL_MAPPING_NAMES

from common.engine.weights.foreign_towers import no_foreign_towers
from scripts.survey.fields import VOCAB
from scripts.survey.shrink import tiny_config
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import continue_greedily, engine_config, make_engine
from tests.unit.common.engine.weights.edited import add, edit
from tests.unit.common.engine.weights.loading import load
from tests.unit.common.engine.weights.tiny_multimodal import save_multimodal, save_random

TEXT_IDS, SEEN_IDS = 96, 16  # ids from 96 are embedded for vision, those from 112 for sound
TEXT = random.Random(5).choices(range(3, VOCAB), k=90)


def test_every_token_is_embedded_as_the_whole_model_embeds_it(tmp_path: Path) -> None:
    whole = _save_gemma3n(tmp_path)
    prompts = [TEXT[:70], TEXT[70:75]]
    assert min(prompts[0]) < TEXT_IDS
    assert max(prompts[0]) >= TEXT_IDS + SEEN_IDS
    expected = [continue_greedily(whole, prompt, 8) for prompt in prompts]
    engine = make_engine(tmp_path, engine_config(backend="reference"))
    assert continuations(engine, prompts, 8, budget=23) == expected


def test_weights_of_the_tower_are_not_unused_ones(tmp_path: Path) -> None:
    whole = _save_gemma3n(tmp_path)
    edit(tmp_path, add("model.vision_tower.timm_model.conv_stem.conv.weight", torch.zeros(3)))
    names = {name for name, _ in load(tmp_path).named_parameters()}
    assert names == {name for name, _ in whole.named_parameters() if "audio_tower" not in name}


def test_a_model_without_such_a_tower_needs_nothing_of_those_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken timm breaks the configurations that import it."""
    save_multimodal(tmp_path, "qwen2_vl")
    foreign = [kind for kind, name in MODEL_MAPPING_NAMES.items() if name == "TimmWrapperModel"]
    assert "gemma3n_vision" in foreign
    for kind in foreign:
        monkeypatch.setitem(CONFIG_MAPPING_NAMES, kind, "CannotBeImportedConfig")
    load(tmp_path)


def test_a_tower_is_empty_only_while_a_model_is_loaded(tmp_path: Path) -> None:
    tower = type(_save_gemma3n(tmp_path).config.vision_config)
    load(tmp_path)
    for kind in (tower, TimmWrapperConfig):
        assert MODEL_MAPPING[kind].__name__ == "TimmWrapperModel"


def _save_gemma3n(folder: Path) -> Any:
    torch.manual_seed(0)
    config: Any = tiny_config("gemma3n")
    config.vision_config.vocab_offset = TEXT_IDS
    config.audio_config.vocab_offset = TEXT_IDS + SEEN_IDS
    for part in (config.vision_config, config.audio_config):
        part.vocab_size = SEEN_IDS
    with no_foreign_towers(config):
        return save_random(folder, config)
