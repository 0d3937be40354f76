"""Integers of a quantized checkpoint that stay as they are, in panels of the fused pass on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import EngineConfig
from common.engine.build import Engine
from common.engine.cpu import target
from common.engine.cpu.target import Target, host_target
from common.engine.fused.quantize import PanelForm
from common.engine.memory.host_budget import HostRoom
from common.engine.memory.worker_share import WorkerShare
from common.engine.weights.prequantized.keeping import expected_forms, keeps_integers
from common.engine.weights.size import loading_bytes, weights_bytes
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
)
from tests.unit.common.engine.weights.edited import add, drop, edit
from tests.unit.common.engine.weights.prequantized.formats import (
    AWQ,
    Gptq,
    Packed,
    awq,
    bytes_of_rows,
    compressed,
    whole_int8,
)
from tests.unit.common.engine.weights.prequantized.test_formats import (
    DEQUANTIZING,
    INT8,
    NEW_TOKENS,
    PROMPT,
    folders_of,
)
from tests.unit.common.engine.weights.prequantized.writing import Write, write_folders

KEEPING = engine_config(quantization="auto")
has_kernels = pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here")
SYMMETRIC = Packed()
CASES: dict[str, tuple[dict[str, object], Write, PanelForm]] = {
    "awq": (AWQ, awq, PanelForm(4, True, "float32")),
    "gptq": (Gptq().settings, Gptq(), PanelForm(4, True, "float32")),
    "gptq-8-rows": (
        Gptq(bits=8, group=-1).settings,
        Gptq(bits=8, group=-1),
        PanelForm(8, True, "float32"),
    ),
    "packed": (SYMMETRIC.settings, SYMMETRIC, PanelForm(4, False)),
    "packed-8": (Packed(bits=8).settings, Packed(bits=8), PanelForm(8, False)),
    "int8": (
        compressed("int-quantized", num_bits=8, type="int"),
        whole_int8,
        PanelForm(8, True, "float32"),
    ),
    "llm-int8": (INT8, bytes_of_rows, PanelForm(8, False, "float32")),
}


def products_of(engine: Engine) -> list[Any]:
    decoder: Any = engine.runner._model
    layer = decoder.weights.layers[0]
    return [layer.qkv, layer.output, layer.gate_up, layer.down]


# its levels are those of packed-8 and its scales those of gptq-8-rows, but it compiles kernels of its own
SLOW = {"llm-int8"}


@has_kernels
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]
)
def test_tokens_are_those_of_transformers_on_the_same_numbers(tmp_path: Path, name: str) -> None:
    settings, write, form = CASES[name]
    torch.manual_seed(1)
    folders = write_folders(tmp_path, "qwen2", settings, write)
    expected = continue_greedily(load_reference(folders.plain), PROMPT, NEW_TOKENS)
    engine = make_engine(folders.quantized, KEEPING)
    assert continuations(engine, [PROMPT], NEW_TOKENS, 16) == [expected]
    assert all(product.scales is not None for product in products_of(engine))
    assert list(expected_forms(folders.quantized, KEEPING)) == [form]
    assert engine.spec.stored_as == f"float32/{settings['quant_method']}"


@has_kernels
def test_the_head_may_be_quantized_and_the_embedding_not(tmp_path: Path) -> None:
    folders = folders_of(tmp_path, "packed")
    head = SYMMETRIC(torch.empty(VOCAB, 64))
    edit(folders.plain, add("lm_head.weight", head.plain))
    edit(folders.quantized, drop("lm_head.weight"))
    for end, part in head.parts.items():
        edit(folders.quantized, add(f"lm_head.{end}", part))
    expected = continue_greedily(load_reference(folders.plain), PROMPT, NEW_TOKENS)
    engine = make_engine(folders.quantized, KEEPING)
    assert continuations(engine, [PROMPT], NEW_TOKENS, 16) == [expected]


@pytest.mark.parametrize("name", ["gptq-act-order", "packed-act-order", "fp8-rows", "mxfp4"])
def test_what_panels_cannot_hold_is_dequantized(tmp_path: Path, name: str) -> None:
    folders = folders_of(tmp_path, name)
    assert not keeps_integers(folders.quantized, KEEPING)
    expected = continue_greedily(load_reference(folders.plain), PROMPT, NEW_TOKENS)
    engine = make_engine(folders.quantized, KEEPING)
    assert continuations(engine, [PROMPT], NEW_TOKENS, 16) == [expected]
    assert engine.spec.stored_as == "float32"


@pytest.mark.parametrize("config", [DEQUANTIZING, engine_config(fusion="off")])
def test_settings_can_want_them_dequantized(tmp_path: Path, config: EngineConfig) -> None:
    folder = folders_of(tmp_path, "awq").quantized
    assert not keeps_integers(folder, config)
    assert make_engine(folder, config).spec.stored_as == "float32"


def test_a_cpu_without_kernels_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders_of(tmp_path, "awq").quantized
    monkeypatch.setattr(target, "host_target", lambda: Target("a-cpu", "baseline"))
    assert not keeps_integers(folder, KEEPING)
    assert expected_forms(folder, KEEPING) == {}


def test_only_some_of_merged_products_are_not_kept(tmp_path: Path) -> None:
    def write(weight: torch.Tensor) -> Any:
        return awq(weight) if weight.shape == (64, 64) else None  # not keys and values

    folders = write_folders(tmp_path, "llama", AWQ, write)
    assert not keeps_integers(folders.quantized, KEEPING)


def test_memory_is_that_of_integers(tmp_path: Path) -> None:
    folder = folders_of(tmp_path, "packed").quantized
    full = weights_bytes(folder, "bfloat16")
    products = full - 2 * (2 * 101 * 64 + 5 * 64)  # without embedding, head and norms
    kept = weights_bytes(folder, "bfloat16", keeps_integers=True)
    # 4 bits, and 8 bytes for the scales of 32
    assert full - kept == products * 5 // 8
    assert loading_bytes(folder, "bfloat16", keeps_integers=True) < loading_bytes(
        folder, "bfloat16"
    )


@has_kernels
def test_memory_is_that_of_full_width_where_kernels_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders_of(tmp_path, "packed").quantized
    asked: list[tuple[object, ...]] = []

    def tell(*kernels: object) -> str | None:
        asked.append(kernels)
        return ("a product differs", None)[len(asked) % 2]

    monkeypatch.setattr("common.engine.product_kernels.trusted_products", tell)
    right, wrong = (HostRoom.read(folder, KEEPING, WorkerShare()).fixed_bytes for _ in range(2))
    assert asked == [("float32", "silu", PanelForm(4, False))] * 2
    full, kept = (loading_bytes(folder, "float32", keeps_integers=keeps) for keeps in (False, True))
    assert full - kept <= wrong - right <= 1.1 * full - kept


def test_groups_in_another_order_than_the_settings_say_are_refused(tmp_path: Path) -> None:
    folders = folders_of(tmp_path, "gptq")

    def reorder(tensors: dict[str, torch.Tensor]) -> None:
        name = "model.layers.0.mlp.down_proj.g_idx"
        tensors[name] = tensors[name].flip(0).contiguous()

    edit(folders.quantized, reorder)
    with pytest.raises(Exception, match="has its groups in another order") as caught:
        make_engine(folders.quantized, KEEPING)
    assert "set engine.quantization to none" in str(caught.value)
