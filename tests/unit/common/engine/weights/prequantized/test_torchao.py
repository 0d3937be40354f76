"""Checkpoints of torchao, written as it stores each kind of its tensors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.engine.cpu.target import host_target
from common.engine.fused.quantize import PanelForm
from common.engine.weights.prequantized.keeping import expected_forms
from pdserve.errors import SetupError
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import (
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
)
from tests.unit.common.engine.weights.edited import Tensors
from tests.unit.common.engine.weights.loading import load
from tests.unit.common.engine.weights.prequantized.test_formats import NEW_TOKENS, PROMPT
from tests.unit.common.engine.weights.prequantized.writing import (
    Folders,
    Write,
    Written,
    random_scales,
    write_folders,
)

SETTINGS: dict[str, object] = {"quant_method": "torchao"}
GROUP = 32
DOWN = "model.layers.0.mlp.down_proj."


def int8(weight: torch.Tensor) -> Written:
    levels = torch.randint(-127, 128, weight.shape).to(torch.int8)
    scales = random_scales(len(weight), 1, bits=8).float()
    zeros = torch.zeros(scales.shape, dtype=torch.int8)
    return written(levels.float() * scales, qdata=levels, scale=scales, zero_point=zeros)


def intx(weight: torch.Tensor) -> Written:
    levels = torch.randint(-8, 8, weight.shape).to(torch.int8)
    scales, zeros = grouped(weight), torch.randint(-2, 3, grouped(weight).shape)
    plain = (levels - spread(zeros)) * spread(scales)
    return written(plain, qdata=levels, scale=scales, zero_point=zeros.to(torch.int8))


def int4(weight: torch.Tensor) -> Written:
    """FBGEMM's pack_int4 and int4_row_quantize_zp: level * scale + zero, levels of -8 to 7."""
    levels = torch.randint(-8, 8, weight.shape)
    scales, zeros = grouped(weight), torch.randn(grouped(weight).shape) / 20
    packed = (levels[:, ::2] & 15 | (levels[:, 1::2] & 15) << 4).to(torch.uint8).view(torch.int8)
    plain = levels * spread(scales) + spread(zeros)
    return written(plain, qdata=packed, scale=scales.T, zero_point=zeros.T)


def float8(weight: torch.Tensor) -> Written:
    numbers = (torch.randn(weight.shape) * 60).to(torch.float8_e4m3fn)
    scales = (torch.rand(len(weight), 1) + 0.5) * 0.01
    return written(numbers.float() * scales, qdata=numbers, scale=scales)


def grouped(weight: torch.Tensor) -> torch.Tensor:
    return random_scales(len(weight), weight.shape[1] // GROUP).float()


def spread(by_group: torch.Tensor) -> torch.Tensor:
    return by_group.repeat_interleave(GROUP, dim=1)


def written(plain: torch.Tensor, **parts: torch.Tensor) -> Written:
    return Written({f"_weight_{role}": part for role, part in parts.items()}, plain)


KINDS: dict[str, Write] = {
    "Int8Tensor": int8,
    "IntxUnpackedToInt8Tensor": intx,
    "Int4Tensor": int4,
    "Float8Tensor": float8,
}


def folders_of(root: Path, kind: str, write: Write) -> Folders:
    torch.manual_seed(1)
    folders = write_folders(root, "llama", SETTINGS, write)
    change(folders.quantized, kind)
    return folders


def change(
    folder: Path, kind: str, edit: Callable[[Tensors], object] = lambda tensors: None
) -> None:
    """Change the tensors, and write the metadata of torchao's flatten_tensor_state_dict."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    kinds = {name.replace("._weight_qdata", ".weight"): kind for name in tensors if "qdata" in name}
    kinds |= {name: "Tensor" for name in tensors if "._weight_" not in name}
    metadata = {name: json.dumps({"_type": each, "_data": {}}) for name, each in kinds.items()}
    metadata |= {"format": "pt", "tensor_names": json.dumps(list(kinds))}
    save_file(tensors, folder / "model.safetensors", metadata=metadata)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_numbers_that_are_meant(tmp_path: Path, kind: str) -> None:
    folders = folders_of(tmp_path, kind, KINDS[kind])
    loaded = load(folders.quantized).state_dict()
    for weight, tensor in load_reference(folders.plain).state_dict().items():
        assert torch.equal(loaded[weight], tensor), weight


@pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here")
def test_int8_is_kept(tmp_path: Path) -> None:
    folders = folders_of(tmp_path, "Int8Tensor", int8)
    expected = continue_greedily(load_reference(folders.plain), PROMPT, NEW_TOKENS)
    config = engine_config(quantization="auto")
    assert list(expected_forms(folders.quantized, config)) == [PanelForm(8, False, "float32")]
    engine = make_engine(folders.quantized, config)
    assert continuations(engine, [PROMPT], NEW_TOKENS, 16) == [expected]
    assert engine.spec.stored_as == "float32/torchao"


@pytest.mark.parametrize(
    ("kind", "edit", "reason"),
    [
        ("MXTensor", lambda tensors: None, "is of torchao's kind 'MXTensor'"),
        (
            "Int8Tensor",
            lambda tensors: tensors.pop(f"{DOWN}_weight_scale"),
            f"{DOWN}_weight_scale is missing",
        ),
        (
            "Int8Tensor",
            lambda tensors: tensors.update({f"{DOWN}_weight_act_pre_scale": torch.ones(128)}),
            f"{DOWN}weight scales activations before its product",
        ),
        (
            "Int4Tensor",
            lambda tensors: None,
            "_weight_scale has the shape [64, 1]",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    tmp_path: Path, kind: str, edit: Callable[[Tensors], object], reason: str
) -> None:
    folder = folders_of(tmp_path, "Int8Tensor", int8).quantized
    change(folder, kind, edit)
    with pytest.raises(SetupError) as caught:
        load(folder)
    assert reason in str(caught.value)
