"""Quantized weights are refused by the file or tensor that shows them, from every writer."""

import json
from pathlib import Path

import pytest
import torch

from common.engine.weights.load import load_model
from pdserve.errors import SetupError
from tests.unit.common.engine.tiny_models import save_model
from tests.unit.common.engine.weights.edited import Tensors, add, edit, edit_config

DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_model(tmp_path / "llama", "llama")


def refusal(folder: Path, *, allow_unused_weights: bool = False) -> str:
    with pytest.raises(SetupError) as caught:
        load_model(
            folder,
            "float32",
            torch.device("cpu"),
            allow_unused_weights=allow_unused_weights,
        )
    assert "\n" not in str(caught.value)
    assert "Give the model's full weights, or its GGUF file" in str(caught.value.remedy)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quant_method 'gptq'"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quant_method 'awq'"),
        ({"quantization_config": {"quant_method": "modelopt"}}, "quant_method 'modelopt'"),
        ({"quantization_config": {"quant_method": "my-own"}}, "quant_method 'my-own'"),
        ({"quantization_config": {"quant_method": "two\nlines"}}, r"'two\nlines'"),
        ({"quantization_config": {"load_in_4bit": True}}, "no method named"),
        ({"quantization_config": {"group_size": 64, "bits": 4}}, "bits 4"),
        ({"compression_config": {"format": "pack-quantized"}}, "format 'pack-quantized'"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization says"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "quant_method 'fp8'"),
    ],
)
def test_what_config_json_says_is_quantized_is_refused(
    llama: Path, fields: dict[str, object], reason: str
) -> None:
    edit_config(llama, **fields)
    message = refusal(llama)
    assert reason in message
    assert "config.json: " in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}),
        ("quantize_config.json", {"bits": 4, "group_size": 128}),
        ("quant_config.json", {"w_bit": 4}),
        ("quanto_qmap.json", {}),
    ],
)
def test_a_file_beside_the_weights_that_says_so_is_named(
    llama: Path, name: str, content: dict[str, object]
) -> None:
    (llama / name).write_text(json.dumps(content))
    assert f"{name} says that the weights are quantized" in refusal(llama)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_a_quantized_tensor_that_nothing_speaks_of_is_named(
    llama: Path, dtype: torch.dtype
) -> None:
    """ModelOpt's FP8 without its files; its scales would be dropped if unused tensors are allowed."""

    def quantize(tensors: Tensors) -> None:
        tensors[DOWN] = tensors[DOWN].to(dtype)
        tensors[f"{DOWN}_scale"] = torch.ones(())

    edit(llama, quantize)
    message = refusal(llama, allow_unused_weights=True)
    assert f"{DOWN} is stored as {str(dtype)[6:7].upper()}" in message


def test_an_empty_section_says_nothing(llama: Path) -> None:
    edit_config(llama, quantization_config=None, compression_config={})
    load_model(llama, "float32", torch.device("cpu"))


def test_a_mask_of_integers_is_no_quantized_weight(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "gpt2")
    mask = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    edit(folder, add("transformer.h.0.attn.bias", mask))
    load_model(folder, "float32", torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_width_are_not_quantized(llama: Path, dtype: torch.dtype) -> None:
    edit(llama, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    model, _ = load_model(llama, "float32", torch.device("cpu"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
