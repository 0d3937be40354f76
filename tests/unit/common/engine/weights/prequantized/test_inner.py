"""Quantized weights of a language model that lies inside another model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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
