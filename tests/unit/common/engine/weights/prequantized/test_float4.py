"""4-bit floats: arithmetic by hand, settings beside config.json, and what is refused by name."""

import json
from pathlib import Path

import pytest
import torch

from common.engine.weights.prequantized.plan import tell_plan
from tests.unit.common.engine.weights.edited import add, drop, edit, edit_config
from tests.unit.common.engine.weights.loading import load, refusal
from tests.unit.common.engine.weights.prequantized.floats_of_4_bits import (
    Nvfp4,
    packed_mxfp4,
    quark,
    quark_mxfp4,
)
from tests.unit.common.engine.weights.prequantized.formats import Floats, Packed, compressed
from tests.unit.common.engine.weights.prequantized.writing import (
    Folders,
    Written,
    assert_same_weights,
    move_settings,
    write_folders,
)

DOWN = "model.layers.0.mlp.down_proj"
COMPRESSED, MODELOPT = Nvfp4(), Nvfp4(is_modelopt=True)
MXFP4 = compressed("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32)


def write(root: Path, form: Nvfp4) -> Folders:
    torch.manual_seed(1)
    return write_folders(root, "llama", form.settings, form)


def test_numbers_are_those_counted_by_hand(tmp_path: Path) -> None:
    """Bytes 0x21 and 0xF7 are 0.5, 1, 6 and -6; a scale of 1.5 and a number of 4 leave 0.375 of them."""
    folder = write(tmp_path, COMPRESSED).quantized
    packed = torch.zeros(64, 64, dtype=torch.uint8)
    packed[3, 8:10] = torch.tensor([0x21, 0xF7])  # the second group of the row
    scales = torch.full((64, 8), 448.0)
    scales[3, 1] = 1.5
    edit(folder, add(f"{DOWN}.weight_packed", packed))
    edit(folder, add(f"{DOWN}.weight_scale", scales.to(torch.float8_e4m3fn)))
    edit(folder, add(f"{DOWN}.weight_global_scale", torch.tensor([4.0])))
    weight = load(folder).state_dict()[f"{DOWN}.weight"]
    assert weight[3, 16:20].tolist() == [0.1875, 0.375, 2.25, -2.25]
    weight[3, 16:20] = 0
    assert not weight.any()


@pytest.mark.parametrize(
    ("algorithm", "told"),
    [
        ("NVFP4", "NVFP4"),
        ("W4A16_NVFP4", "NVFP4"),
        ("MIXED_PRECISION", "mixed precision"),
    ],
)
def test_settings_of_modelopt_lie_beside_config_json(
    tmp_path: Path, algorithm: str, told: str
) -> None:
    folders = write(tmp_path, MODELOPT)
    move_settings(folders.quantized, "hf_quant_config.json")
    file = folders.quantized / "hf_quant_config.json"
    fields = json.loads(file.read_text()) | {"quant_algo": algorithm}
    file.write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": fields}))
    words = (
        f"; dequantized from ModelOpt {told}, without its scales of activations, 0.00 GB in files"
    )
    assert tell_plan(folders.quantized, False) == words
    assert_same_weights(folders)


def test_a_checkpoint_may_mix_kinds(tmp_path: Path) -> None:
    """Products with 128 inputs are packed integers."""
    form = compressed("mixed-precision", num_bits=4, type="float", group_size=16)
    integers = Packed()

    def by_inputs(weight: torch.Tensor) -> Written | None:
        return (integers if weight.shape[1] == 128 else COMPRESSED)(weight)

    torch.manual_seed(1)
    folders = write_folders(tmp_path, "llama", form, by_inputs)
    assert_same_weights(folders)


def test_quark_may_mix_mxfp4_with_fp8(tmp_path: Path) -> None:
    """Products with 128 inputs are FP8."""
    form, floats = quark("fp4", "*down*", "fp8_e4m3"), Floats(is_flat=True, has_input_scale=True)

    def by_inputs(weight: torch.Tensor) -> Written:
        return (floats if weight.shape[1] == 128 else quark_mxfp4)(weight)

    torch.manual_seed(1)
    folders = write_folders(tmp_path, "llama", form, by_inputs)
    assert_same_weights(folders)
    told = "dequantized from Quark FP8 and MXFP4, without its scales of activations"
    assert told in tell_plan(folders.quantized, False)


@pytest.mark.parametrize(
    ("form", "part", "reason"),
    [
        (COMPRESSED, "weight_packed", "belongs to no quantized weight"),
        (COMPRESSED, "weight_scale", "is missing"),
        # taken for MXFP4, which has none
        (COMPRESSED, "weight_global_scale", "is stored as F8_E4M3, and must be U8 or F8_E8M0"),
        (MODELOPT, "weight", "belongs to no quantized weight"),
        (MODELOPT, "weight_scale", "is missing"),
        (MODELOPT, "weight_scale_2", "is missing"),
    ],
)
def test_a_weight_without_all_its_parts_is_refused_by_name(
    tmp_path: Path, form: Nvfp4, part: str, reason: str
) -> None:
    folder = write(tmp_path, form).quantized
    edit(folder, drop(f"{DOWN}.{part}"))
    message = str(refusal(folder, allow_unused_weights=True))
    assert f"{DOWN}." in message
    assert reason in message


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("weight_scale", torch.ones(64, 4).to(torch.float8_e4m3fn), "has the shape [64, 4]"),
        ("weight_scale", torch.ones(64, 8), "is stored as F32, and must be F8_E4M3"),
        ("weight_global_scale", torch.ones(2), "is more than one number"),
        ("weight_packed", torch.zeros(64, 60, dtype=torch.uint8), "no groups of 16"),
        ("weight_packed", torch.zeros(2, 64, 64, dtype=torch.uint8), "is no matrix"),
        ("weight_zero_point", torch.zeros(64, 8), "belongs to no quantized weight"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, name: str, tensor: torch.Tensor, reason: str
) -> None:
    folder = write(tmp_path, COMPRESSED).quantized
    edit(folder, add(f"{DOWN}.{name}", tensor))
    message = str(refusal(folder))
    assert f"{DOWN}.{name}" in message
    assert reason in message


def test_mxfp4_has_groups_of_32(tmp_path: Path) -> None:
    folder = write_folders(tmp_path, "llama", MXFP4, packed_mxfp4).quantized
    edit(folder, add(f"{DOWN}.weight_scale", torch.zeros(64, 8, dtype=torch.uint8)))
    assert f"{DOWN}.weight_packed needs [64, 4]" in str(refusal(folder))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"quant_method": "quark"}, "global_quant_config names no weights"),
        (
            quark("fp4") | {"algo_config": [{"name": "gptq"}, {"name": "rotation"}]},
            "algo_config names rotation, which turns activations",
        ),
        (quark("int4"), "global_quant_config has weights of int4"),
        (quark("fp4", "*down*", "int8"), "layer_quant_config of *down* has weights of int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}, "quant_algo 'NVFP4_AWQ'"),
    ],
)
def test_other_kinds_are_refused_in_one_line_with_a_remedy(
    tmp_path: Path, fields: dict[str, object], told: str
) -> None:
    folder = write(tmp_path, COMPRESSED).quantized
    edit_config(folder, quantization_config=fields)
    message = str(refusal(folder))
    assert told in message
    assert "Give the model's full weights, or its GGUF file" in message
    assert "\n" not in message
