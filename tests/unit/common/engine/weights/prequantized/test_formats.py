"""Quantized checkpoints give the tokens of `transformers` on the numbers that they stand for."""

import random
from pathlib import Path

import pytest
import torch

from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
)
from tests.unit.common.engine.weights.edited import shard
from tests.unit.common.engine.weights.loading import load
from tests.unit.common.engine.weights.prequantized.floats_of_4_bits import (
    Nvfp4,
    packed_mxfp4,
    quark,
    quark_mxfp4,
)
from tests.unit.common.engine.weights.prequantized.formats import (
    AWQ,
    Floats,
    Gptq,
    Nf4,
    Packed,
    awq,
    bytes_of_rows,
    compressed,
    mxfp4,
    whole_int8,
)
from tests.unit.common.engine.weights.prequantized.writing import Folders, Write, write_folders

PROMPT = random.Random(0).choices(range(VOCAB), k=20)
NEW_TOKENS = 8
DEQUANTIZING = engine_config(quantization="none")
FP8: dict[str, object] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
BLOCKS = FP8 | {"weight_block_size": [32, 48]}
NF4: dict[str, object] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
INT8: dict[str, object] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
MODELOPT: dict[str, object] = {"quant_method": "modelopt", "quant_algo": "FP8"}


CASES: dict[str, tuple[str, dict[str, object], Write]] = {
    "awq": ("llama", AWQ, awq),
    **{
        name: (family, form.settings, form)
        for name, family, form in (
            ("gptq", "llama", Gptq()),
            ("gptq-8", "qwen2", Gptq(bits=8)),
            ("gptq-act-order", "llama", Gptq(has_act_order=True)),
            ("gptq-rows", "llama", Gptq(group=-1, has_g_idx=False)),
            ("gptq-v2", "llama", Gptq(is_second=True)),
            ("packed", "llama", Packed()),
            ("packed-8", "llama", Packed(bits=8)),
            ("packed-zeros", "llama", Packed(is_symmetric=False)),
            ("packed-act-order", "llama", Packed(is_symmetric=False, has_act_order=True)),
        )
    },
    "int8": ("llama", compressed("int-quantized", num_bits=8, type="int"), whole_int8),
    "fp8-rows": (
        "llama",
        compressed("float-quantized", num_bits=8, type="float"),
        Floats(rows=1, has_input_scale=True),
    ),
    "fp8-blocks": ("llama", BLOCKS, Floats("weight_scale_inv", rows=32, columns=48)),
    "fp8-blocks-experts": ("deepseek_v3", BLOCKS, Floats("weight_scale_inv", rows=32, columns=48)),
    "fp8-one": ("llama", FP8, Floats(is_flat=True, has_input_scale=True)),
    "fbgemm": ("llama", {"quant_method": "fbgemm_fp8"}, Floats(rows=1)),
    "modelopt": ("llama", MODELOPT, Floats(is_flat=True)),
    "modelopt-rows": (
        "llama",
        MODELOPT | {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
        Floats(rows=1, is_flat=True),
    ),
    "nf4": ("llama", NF4, Nf4()),
    "nf4-nested": ("llama", NF4, Nf4(is_nested=True)),
    "llm-int8": ("llama", INT8, bytes_of_rows),
    "mxfp4": ("gpt_oss", {"quant_method": "mxfp4"}, mxfp4),
    "nvfp4": ("llama", Nvfp4().settings, Nvfp4()),
    "nvfp4-experts": ("deepseek_v3", Nvfp4().settings, Nvfp4()),
    "nvfp4-modelopt": ("llama", Nvfp4(is_modelopt=True).settings, Nvfp4(is_modelopt=True)),
    "mxfp4-quark": ("llama", quark("fp4"), quark_mxfp4),
    "fp8-quark": ("llama", quark("fp8_e4m3"), Floats(is_flat=True, has_input_scale=True)),
    "mxfp4-packed": (
        "llama",
        compressed("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32),
        packed_mxfp4,
    ),
}


def folders_of(root: Path, name: str) -> Folders:
    family, settings, write = CASES[name]
    torch.manual_seed(1)
    return write_folders(root, family, settings, write)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_the_numbers_that_are_meant(tmp_path: Path, name: str) -> None:
    folders = folders_of(tmp_path, name)
    shard(folders.quantized)  # the parts of a weight lie in both files
    loaded = load(folders.quantized).state_dict()
    for weight, tensor in load_reference(folders.plain).state_dict().items():
        assert torch.equal(loaded[weight], tensor), weight


@pytest.mark.parametrize(
    "name",
    [
        *("awq", "gptq-8", "packed-zeros", "fp8-rows", "fp8-blocks-experts", "mxfp4", "nf4"),
        *("nvfp4-experts", "nvfp4-modelopt"),
    ],
)
def test_tokens_are_those_of_transformers_on_the_same_numbers(tmp_path: Path, name: str) -> None:
    folders = folders_of(tmp_path, name)
    expected = continue_greedily(load_reference(folders.plain), PROMPT, NEW_TOKENS)
    assert len(set(expected)) > 2
    engine = make_engine(folders.quantized, DEQUANTIZING)
    assert continuations(engine, [PROMPT], NEW_TOKENS, 16) == [expected]
