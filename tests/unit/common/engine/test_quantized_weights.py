"""Engines with quantized weights give the tokens of `transformers` on the same numbers, or a refusal."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from common.config import EngineConfig
from common.engine.build import Engine
from common.engine.cpu.target import host_target
from common.engine.fused.cpu_ops import CpuOps
from common.engine.fused.quantize import HEAD_FORMAT, Format
from common.engine.fused.rounded import rounded
from common.engine.kernel_checks.verdicts import trusted_products
from pdserve.errors import SetupError
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.test_same_bits import assert_same_bits
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
    save_model,
)

PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (20, 3, 37)]
NEW_TOKENS = 8
FORMATS = pytest.mark.parametrize("form", ["int8", "int4"])
has_kernels = pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here")


def quantized_config(form: Format, dtype: str = "float32") -> EngineConfig:
    return engine_config(quantization=form, dtype=dtype)


def reference_tokens(folder: Path, form: Format) -> list[list[int]]:
    """Return the tokens of `transformers` with every product's weight replaced by the numbers left of it."""
    model: Any = load_reference(folder)
    head = model.get_output_embeddings()
    with torch.inference_mode():
        for module in model.modules():
            if type(module) is nn.Linear:
                kept = HEAD_FORMAT if module is head else form
                module.weight.data = rounded(module.weight, kept)
        if model.config.tie_word_embeddings:
            model.get_input_embeddings().weight.data = head.weight.data
        return [continue_greedily(model, prompt, NEW_TOKENS) for prompt in PROMPTS]


@FORMATS
@pytest.mark.parametrize(
    ("family", "is_tied"),
    [("llama", False), ("llama", True), ("phi3", False), ("gemma3_text", True)],
)
def test_tokens_are_those_of_transformers_on_the_same_numbers(
    tmp_path: Path, family: str, is_tied: bool, form: Format
) -> None:
    folder = save_model(tmp_path, family, tie_word_embeddings=is_tied)
    engine = make_engine(folder, quantized_config(form))
    expected = reference_tokens(folder, form)
    assert continuations(engine, PROMPTS, NEW_TOKENS, 16) == expected
    assert len({token for tokens in expected for token in tokens}) > 3


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@has_kernels
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("int8", "float32"),
        ("int8", "bfloat16"),
        ("int4", "float32"),
        # each half of it is above, and it compiles kernels of its own
        pytest.param("int4", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_logits_have_the_same_bits_in_every_step(llama: Path, form: Format, dtype: str) -> None:
    assert_same_bits(make_engine(llama, quantized_config(form, dtype=dtype)))


@has_kernels
def test_weights_are_held_as_integers(llama: Path) -> None:
    layer = weights_of(make_engine(llama, quantized_config("int4"))).layers[0]
    for product in (layer.qkv, layer.output, layer.gate_up, layer.down):
        assert product.weight.dtype == torch.uint32
        assert product.weight.nbytes * 2 >= product.out_features * 64


def weights_of(engine: Engine) -> Any:
    decoder: Any = engine.runner._model
    return decoder.weights


@FORMATS
def test_workers_tell_by_dtype_and_fingerprint_that_numbers_differ(
    llama: Path, form: Format
) -> None:
    full = make_engine(llama, engine_config()).spec
    spec = make_engine(llama, quantized_config(form)).spec
    assert spec.fingerprint == f"{full.fingerprint}-{form}"
    assert (full.stored_as, spec.stored_as) == ("float32", f"float32/{form}")


@has_kernels
def test_kernels_that_are_wrong_leave_the_same_numbers_to_torch(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted_products.cache_clear()
    with monkeypatch.context() as spoiled:
        spoiled.setattr(CpuOps, "rotate", lambda self, x, heads, cos, sin: x.zero_())
        engine = make_engine(llama, quantized_config("int8"))
    trusted_products.cache_clear()
    assert weights_of(engine).layers[0].qkv.weight.dtype == torch.float32
    assert continuations(engine, PROMPTS, NEW_TOKENS, 16) == reference_tokens(llama, "int8")


def test_a_model_without_a_fused_pass_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "gpt2")
    with pytest.raises(SetupError) as caught:
        make_engine(folder, quantized_config("int8"))
    assert str(caught.value) == (
        "engine.quantization int8 needs the fused pass, and GPT2LMHeadModel has none. set it to none"
    )


def test_a_gpu_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SetupError) as caught:
        make_engine(tmp_path / "missing", engine_config(quantization="int8", device="auto"))
    assert str(caught.value) == "engine.quantization int8 works on a CPU alone. set it to none"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"quantization": "int3"}, "'none', 'int8' or 'int4'"),
        ({"quantization": "int8", "fusion": "off"}, "int8 does not go with fusion: off"),
        ({"quantization": "int4", "device": "cuda"}, "int4 does not go with device: cuda"),
    ],
)
def test_a_bad_setting_is_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EngineConfig.model_validate(values)
    assert words in str(caught.value)
