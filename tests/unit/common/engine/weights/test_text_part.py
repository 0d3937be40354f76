"""The language model inside a checkpoint that also sees is served for text; nothing else of it is read."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from common.engine.weights.text_part import multimodal_class, text_architecture
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    make_engine,
    save_model,
)
from tests.unit.common.engine.weights.edited import Tensors, add, drop, edit
from tests.unit.common.engine.weights.loading import load, refusal
from tests.unit.common.engine.weights.tiny_multimodal import SEEING, save_multimodal

TEXT = random.Random(5).choices(range(VOCAB), k=90)
FUSED = {"mistral3": "Mistral", "gemma3": "Gemma3", "smolvlm": "Llama", "llava": "Llama"}


@pytest.mark.parametrize("family", SEEING)
def test_text_gets_the_tokens_that_the_whole_model_gives(tmp_path: Path, family: str) -> None:
    whole = save_multimodal(tmp_path, family)
    prompts = [TEXT[:70], TEXT[70:75]]
    expected = [continue_greedily(whole, prompt, 8) for prompt in prompts]
    engine = make_engine(tmp_path, engine_config(backend="reference"))
    assert continuations(engine, prompts, 8, budget=23) == expected


@pytest.mark.parametrize("family", SEEING)
def test_no_weight_of_a_tower_is_loaded(tmp_path: Path, family: str) -> None:
    whole = save_multimodal(tmp_path, family)
    model = load(tmp_path)
    wanted = {id(p): p.numel() for part in _language(whole) for p in part.parameters()}
    assert sum(p.numel() for p in model.parameters()) == sum(wanted.values())
    assert sum(wanted.values()) < sum(p.numel() for p in whole.parameters())
    config = AutoConfig.from_pretrained(tmp_path)
    name = f"{FUSED.get(family)}ForCausalLM"
    assert (type(model).__name__ == name) == (family in FUSED)
    assert (text_architecture(config) == name) == (family in FUSED)


def test_a_folder_without_its_tower_is_served_and_one_without_a_layer_is_not(
    tmp_path: Path,
) -> None:
    save_multimodal(tmp_path, "mistral3")
    names = load_file(tmp_path / "model.safetensors")
    edit(tmp_path, drop(*(name for name in names if "vision_tower" in name)))
    load(tmp_path)
    edit(tmp_path, add("language_model.model.layers.7.extra", torch.zeros(1)))
    assert "nothing uses the tensor" in str(refusal(tmp_path))
    norm = next(name for name in names if name.endswith("layers.1.input_layernorm.weight"))
    edit(tmp_path, drop(norm))
    message = str(refusal(tmp_path))
    assert "lacks the tensor" in message
    assert "layers.1.input_layernorm.weight" in message


def test_names_of_old_checkpoints_are_known(tmp_path: Path) -> None:
    save_multimodal(tmp_path, "llava")
    new = load(tmp_path).state_dict()

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            old = name.removeprefix("model.").replace("language_model.", "language_model.model.", 1)
            tensors[old.replace("model.model.", "model.")] = tensors.pop(name)

    edit(tmp_path, rename)
    assert any(
        n.startswith("language_model.model.") for n in load_file(tmp_path / "model.safetensors")
    )
    old = load(tmp_path).state_dict()
    assert new.keys() == old.keys()
    assert all(torch.equal(old[name], tensor) for name, tensor in new.items())


def test_a_causal_lm_alone_is_no_multimodal_model(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(save_model(tmp_path, "gemma3_text"))
    assert multimodal_class(config) is None
    assert text_architecture(config) == "Gemma3ForCausalLM"


def _language(whole: torch.nn.Module) -> list[torch.nn.Module]:
    return [whole.get_decoder(), whole.get_output_embeddings()]
