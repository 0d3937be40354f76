"""Quantized weights of a language model that lies inside another model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.engine.weights.prequantized.plan import tell_plan
from common.engine.weights.size import weights_bytes
from tests.unit.common.engine.weights.edited import add, edit
from tests.unit.common.engine.weights.loading import refusal
from tests.unit.common.engine.weights.prequantized.formats import Gptq
from tests.unit.common.engine.weights.prequantized.writing import (
    Folders,
    assert_same_weights,
    write_both,
)
from tests.unit.common.engine.weights.tiny_multimodal import save_multimodal, save_tiny

Save = Callable[[Path, str], object]
GPTQ = Gptq()


def write(root: Path, save: Save, kind: str) -> Folders:
    torch.manual_seed(1)
    return write_both(root, lambda folder: save(folder, kind), GPTQ.settings, GPTQ)


def move_settings_to(folder: Path, place: str) -> None:
    """Move the settings out of config.json's top into a section of it, as `thinker_config.text_config`."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    settings = config.pop("quantization_config")
    file.write_text(json.dumps(config))
    put(folder, place, quantization_config=settings)


def put(folder: Path, place: str, **fields: object) -> None:
    """Set fields of a section of config.json."""
    file = folder / "config.json"
    config = section = json.loads(file.read_text())
    for key in filter(None, place.split(".")):
        section = section[key]
    section.update(fields)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("place", ["", "thinker_config.text_config"])
def test_settings_lie_in_any_section_that_is_loaded(tmp_path: Path, place: str) -> None:
    folders = write(tmp_path, save_tiny, "qwen2_5_omni")
    move_settings_to(folders.quantized, place)
    assert_same_weights(folders)
    put(folders.quantized, "talker_config", quantization_config={"quant_method": "hqq"})
    assert_same_weights(folders)


def test_settings_of_a_nested_section_are_named_with_it(tmp_path: Path) -> None:
    folder = write(tmp_path, save_multimodal, "mistral3").quantized
    move_settings_to(folder, "text_config")
    put(folder, "text_config", quantization_config={"quant_method": "hqq"})
    assert "config.json: text_config.quantization_config says" in str(refusal(folder))


@pytest.mark.parametrize(
    ("save", "kind", "body"),
    [
        (save_multimodal, "mistral3", "language_model.model"),
        (save_tiny, "qwen2_5_omni", "thinker.model"),
    ],
)
def test_biases_of_zeros_may_have_no_use_where_tensors_are_renamed(
    tmp_path: Path, save: Save, kind: str, body: str
) -> None:
    """Old AutoGPTQ adds them to every product."""
    folders = write(tmp_path, save, kind)
    bias = f"{body}.layers.1.mlp.down_proj.bias"
    edit(folders.quantized, add(bias, torch.zeros(64)))
    assert_same_weights(folders)
    edit(folders.quantized, add(bias, torch.ones(64)))
    assert "nothing uses the tensor" in str(refusal(folders.quantized))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("talker.model.layers.0.mlp.down_proj.scales", torch.ones(2)),
        ("talker.model.layers.0.other_proj.weight", torch.zeros(2, 2, dtype=torch.int8)),
        ("token2wav.model.layers.0.weight", torch.zeros(2).to(torch.float8_e4m3fn)),
    ],
)
def test_what_is_wrong_with_weights_that_are_not_loaded_is_no_matter(
    tmp_path: Path, name: str, tensor: torch.Tensor
) -> None:
    folders = write(tmp_path, save_tiny, "qwen2_5_omni")
    before = weights_bytes(folders.quantized, "float32")
    edit(folders.quantized, add(name, tensor))
    edit(folders.plain, add(name, tensor))
    assert_same_weights(folders)
    assert weights_bytes(folders.quantized, "float32") == before
    assert tell_plan(folders.quantized, False).startswith("; dequantized from GPTQ 4-bit")
