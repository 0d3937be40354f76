"""Folders of quantized weights: where their settings lie, what they take in memory, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from common.engine.weights.fingerprint import fingerprint
from common.engine.weights.load import load_model
from common.engine.weights.prequantized.plan import tell_plan
from common.engine.weights.size import loading_bytes, weights_bytes
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import engine_config, make_engine
from tests.unit.common.engine.weights.edited import Tensors, add, drop, edit, edit_config
from tests.unit.common.engine.weights.loading import load, refusal
from tests.unit.common.engine.weights.prequantized.formats import (
    AWQ,
    Floats,
    Gptq,
    Packed,
    awq,
    compressed,
)
from tests.unit.common.engine.weights.prequantized.writing import (
    Folders,
    Write,
    assert_same_weights,
    move_settings,
    write_folders,
)

DOWN = "model.layers.0.mlp.down_proj"
BLOCKS: dict[str, object] = {"quant_method": "fp8", "weight_block_size": [32, 48]}
BLOCKED = Floats("weight_scale_inv", rows=32, columns=48)
FLOAT = compressed("float-quantized", num_bits=8, type="float")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """AWQ, and its plain weights."""
    return write(tmp_path, AWQ, awq)


def write(root: Path, settings: dict[str, object], form: Write) -> Folders:
    torch.manual_seed(1)
    return write_folders(root, "llama", settings, form)


@pytest.mark.parametrize("form", [Gptq(), Gptq(is_second=True)])
def test_settings_of_old_gptq_lie_beside_config_json(tmp_path: Path, form: Gptq) -> None:
    folders = write(tmp_path, form.settings, form)
    move_settings(folders.quantized, "quantize_config.json")
    assert_same_weights(folders)


def test_settings_of_old_awq_lie_beside_config_json(folders: Folders) -> None:
    renamed = {"bits": "w_bit", "group_size": "q_group_size"}
    move_settings(folders.quantized, "quant_config.json", **renamed)
    assert_same_weights(folders)


def test_settings_of_modelopt_lie_beside_config_json(tmp_path: Path) -> None:
    folders = write(tmp_path, {"quant_method": "modelopt", "quant_algo": "FP8"}, Floats())
    move_settings(folders.quantized, "hf_quant_config.json")
    file = folders.quantized / "hf_quant_config.json"
    file.write_text(json.dumps({"quantization": json.loads(file.read_text())}))
    assert_same_weights(folders)


def test_settings_beside_config_json_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    form = Gptq()
    folder = write(tmp_path, form.settings, form).quantized
    move_settings(folder, "quantize_config.json")
    before = fingerprint(folder)
    file = folder / "quantize_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"checkpoint_format": "gptq_v2"}))
    assert fingerprint(folder) != before


def test_zeros_in_place_of_groups_are_groups_in_order(tmp_path: Path) -> None:
    form = Gptq()
    folders = write(tmp_path, form.settings, form)

    def clear(tensors: Tensors) -> None:
        tensors.update({k: t.zero_() for k, t in tensors.items() if k.endswith("g_idx")})

    edit(folders.quantized, clear)
    assert_same_weights(folders)


def test_numbers_are_rounded_once(folders: Folders) -> None:
    cpu = torch.device("cpu")
    model, _ = load_model(folders.quantized, "bfloat16", cpu)
    loaded = model.state_dict()
    for name, tensor in load(folders.plain).state_dict().items():
        assert torch.equal(loaded[name], tensor.bfloat16()), name


def test_engine_quantization_rounds_them_again(folders: Folders) -> None:
    config = engine_config(quantization="int8")
    tokens = [
        continuations(make_engine(folder, config), [[5, 80, 3]], 8, 16)
        for folder in (folders.quantized, folders.plain)
    ]
    assert tokens[0] == tokens[1]


def test_memory_is_that_of_plain_weights(folders: Folders) -> None:
    for dtype in ("float32", "bfloat16"):
        expected = weights_bytes(folders.plain, dtype)
        assert weights_bytes(folders.quantized, dtype) == expected
    assert loading_bytes(folders.quantized, "float32") >= weights_bytes(folders.plain, "float32")
    # embedding, head and norms are converted; nothing else is held twice
    assert loading_bytes(folders.quantized, "bfloat16") < loading_bytes(folders.plain, "bfloat16")


def test_the_start_tells_what_the_weights_were(tmp_path: Path, folders: Folders) -> None:
    assert tell_plan(folders.quantized, False) == "; dequantized from AWQ 4-bit, 0.00 GB in files"
    assert tell_plan(folders.plain, False) == ""
    static = write(tmp_path / "fp8", FLOAT, Floats(rows=1, has_input_scale=True)).quantized
    edit(static, add("model.layers.0.self_attn.k_scale", torch.ones(())))
    assert "without its scales of activations and KV" in tell_plan(static, False)


@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_only_biases_of_zeros_may_have_no_use(folders: Folders, fill: float) -> None:
    """Old AutoGPTQ adds them to every product."""
    edit(folders.quantized, add(f"{DOWN}.bias", torch.full((64,), fill)))
    if fill:
        assert f"nothing uses the tensor {DOWN}.bias" in str(refusal(folders.quantized))
    else:
        assert_same_weights(folders)


@pytest.mark.parametrize(
    ("settings", "form", "part"),
    [
        (AWQ, awq, "qweight"),
        (AWQ, awq, "scales"),
        (AWQ, awq, "qzeros"),
        (Gptq().settings, Gptq(), "qzeros"),
        (Packed().settings, Packed(), "weight_packed"),
        (Packed().settings, Packed(), "weight_scale"),
        (Packed().settings, Packed(), "weight_shape"),
        (FLOAT, Floats(), "weight_scale"),
        (FLOAT, Floats(), "weight"),
        (BLOCKS, BLOCKED, "weight"),
        (BLOCKS, BLOCKED, "weight_scale_inv"),
    ],
)
def test_a_weight_without_all_its_parts_is_refused_by_name(
    tmp_path: Path, settings: dict[str, object], form: Write, part: str
) -> None:
    folder = write(tmp_path, settings, form).quantized
    edit(folder, drop(f"{DOWN}.{part}"))
    message = str(refusal(folder, allow_unused_weights=True))
    assert f"{DOWN}." in message
    assert "belongs to no quantized weight" in message or "is missing" in message


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        (f"{DOWN}.scales", torch.ones(3, 64), "has the shape [3, 64]"),
        (f"{DOWN}.scales", torch.ones(4, 64, dtype=torch.int8), "is stored as I8"),
        (f"{DOWN}.qweight", torch.zeros(128, 8), "is stored as F32"),
        (f"{DOWN}.weight", torch.zeros(64, 128), "is stored twice"),
        (f"{DOWN}.other", torch.zeros(1), "nothing uses the tensor"),
        ("lm_head.weight", torch.zeros(101, 64, dtype=torch.int8), "is stored as I8"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(
    folders: Folders, name: str, tensor: torch.Tensor, reason: str
) -> None:
    edit(folders.quantized, add(name, tensor))
    message = str(refusal(folders.quantized))
    assert name in message
    assert reason in message


def test_scales_of_other_blocks_are_refused_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path, BLOCKS, BLOCKED).quantized
    edit_config(folder, quantization_config=BLOCKS | {"weight_block_size": [16, 48]})
    message = str(refusal(folder))
    assert ".weight_scale_inv has the shape" in message
    assert "fits no FP8 in blocks of 16 x 48" in message


def test_a_group_without_scales_is_refused_by_name(tmp_path: Path) -> None:
    form = Gptq()
    folder = write(tmp_path, form.settings, form).quantized
    edit(folder, add(f"{DOWN}.g_idx", torch.full((128,), 4, dtype=torch.int32)))
    assert f"{DOWN}.g_idx names a group outside the 4" in str(refusal(folder))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (AWQ | {"version": "gemv"}, "version 'gemv' is not supported"),
        (AWQ | {"bits": 3}, "bits 3 is not supported"),
        (AWQ | {"zero_point": False}, "zero_point False is not supported"),
        (AWQ | {"group_size": "all"}, "group_size is 'all'"),
        (Gptq().settings | {"bits": 3}, "bits 3 is not supported"),
        (Gptq().settings | {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        (Gptq().settings | {"dynamic": {"+:.*down.*": {"bits": 8}}}, "dynamic has settings"),
        (compressed("mxfp8-quantized"), "format 'mxfp8-quantized' is not supported"),
        (compressed("marlin-24"), "format 'marlin-24' is not supported"),
        (FLOAT | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "'sparse-24-bitmask'"),
        (FLOAT | {"transform_config": {"a": 1}}, "transform_config turns activations"),
        (FLOAT | {"config_groups": {}}, "config_groups names no group"),
        (compressed("float-quantized", num_bits=4, type="float"), "weights of float with 4 bits"),
        (BLOCKS | {"weight_block_size": 128}, "weight_block_size is 128"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}, "quant_algo 'NVFP4_AWQ'"),
        ({"quant_method": "mxfp4"}, "no tensor is stored so"),
        ({"quant_method": "torchao"}, "quant_method 'torchao'"),
        ({"quant_method": "hqq"}, "quant_method 'hqq'"),
    ],
)
def test_a_kind_that_is_not_known_is_refused_by_its_key(
    folders: Folders, fields: dict[str, object], reason: str
) -> None:
    edit_config(folders.quantized, quantization_config=fields)
    message = str(refusal(folders.quantized))
    assert "config.json: quantization_config says that the weights are quantized" in message
    assert reason in message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("quantize_config.json", {"bits": 4}, "quantize_config.json says 'gptq'"),
        ("quant_config.json", {"w_bit": 8}, "bits is 4, and"),
    ],
)
def test_two_places_that_disagree_are_named(
    folders: Folders, name: str, content: dict[str, object], reason: str
) -> None:
    (folders.quantized / name).write_text(json.dumps(content))
    assert reason in str(refusal(folders.quantized))
