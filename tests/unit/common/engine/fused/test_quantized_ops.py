"""Kernels on panels of small integers give what the numbers give that these stand for."""

import numpy as np
import pytest
import torch

from common.engine.cpu import panel
from common.engine.cpu.arrays import Array, as_array
from common.engine.cpu.integer_matmul import integer_product
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.quantized_matmul import quantized_matmul
from common.engine.fused.cpu_ops import CpuOps
from common.engine.fused.ops import TorchOps
from common.engine.fused.quantize import Format, quantize
from common.engine.fused.quantized_panels import (
    QuantizedPanels,
    is_for_integers,
    to_quantized_panels,
)
from common.engine.fused.rounded import rounded
from common.engine.fused.weights import Activation, Linear
from tests.unit.common.engine.fused.integer_rows import multiplied

OURS, PLAIN = CpuOps(is_quantized=True), TorchOps()
# one rounding for each product of a row
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
FORMATS = pytest.mark.parametrize("form", ["int8", "int4"])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@FORMATS
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 7, 12, 33])
@pytest.mark.parametrize("shape", [(64, 96), (33, 32), (7, 160), (1, 64)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear(form: Format, tokens: int, shape: tuple[int, int], has_bias: bool) -> None:
    x, weight = normal(tokens, shape[1]), normal(*shape, seed=1) / 10
    bias = normal(shape[0], seed=2) if has_bias else None
    layer = QuantizedPanels(form).linear(Linear(weight, bias))
    assert layer.out_features == shape[0]
    ours = torch.full((tokens, shape[0]), float("nan"))
    OURS.linear(x, layer, ours)
    exact = multiplied(x).double() @ rounded(weight, form).double().T
    torch.testing.assert_close(ours.double(), exact + (0 if bias is None else bias), **CLOSE)


@FORMATS
def test_panels_take_a_quarter_of_float32_or_an_eighth_and_the_scales(form: Format) -> None:
    levels, scales = to_quantized_panels(quantize(normal(64, 96), form))
    assert levels.nbytes == 64 * 96 // (1 if form == "int8" else 2)
    assert scales.shape == (64 // WIDTH, 3, 1 if form == "int8" else 2, WIDTH)
    assert scales.dtype == torch.float16


@FORMATS
@pytest.mark.parametrize("num_parts", [1, 3])
@pytest.mark.parametrize("num_tokens", [1, 2, 4, 6, 11, 12, 23, 29, 40])
def test_a_row_has_the_same_bits_however_many_there_are(
    form: Format, num_parts: int, num_tokens: int
) -> None:
    x, bias = as_array(normal(40, 96)), np.zeros(0, np.float32)
    levels, scales = map(as_array, to_quantized_panels(quantize(normal(60, 96, seed=1), form)))
    some, every = (torch.full((n, 60), float("nan")) for n in (num_tokens, 40))
    product = _by_integers if is_for_integers(96, 3) else quantized_matmul
    product(x[:num_tokens], levels, scales, bias, as_array(some), 0, 60, num_parts)
    product(x, levels, scales, bias, as_array(every), 0, 60, 1)
    assert torch.equal(some, every[:num_tokens])


def _by_integers(x: Array, levels: Array, *rest: object) -> None:
    tokens, depth = x.shape
    product = integer_product(panel.PLAIN, tokens, depth, levels)
    rows = product.rows_in(np.empty((tokens, product.row_bytes(depth)), np.uint8), depth)
    product.split(x, *rows)
    product.multiply(*rows, levels, *rest)


@FORMATS
@pytest.mark.parametrize("tokens", [7, 50])
def test_a_row_of_nan_stays_in_its_row(form: Format, tokens: int) -> None:
    x = normal(tokens, 96)
    clean, marked = torch.empty(tokens, 64), torch.empty(tokens, 64)
    layer = QuantizedPanels(form).linear(Linear(normal(64, 96, seed=1), None))
    OURS.linear(x, layer, clean)
    x[3] = float("nan")
    OURS.linear(x, layer, marked)
    assert marked[3].isnan().all()
    others = torch.arange(tokens) != 3
    assert torch.equal(marked[others], clean[others])


@FORMATS
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("tokens", [1, 6, 13])
@pytest.mark.parametrize("inner", [21, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_gated(
    form: Format, activation: Activation, tokens: int, inner: int, has_bias: bool
) -> None:
    x, weight = normal(tokens, 96), normal(2 * inner, 96, seed=1) / 10
    bias = normal(2 * inner, seed=2) if has_bias else None
    products, ours, plain = (torch.empty(tokens, n) for n in (2 * inner, inner, inner))
    layer = QuantizedPanels(form).gated(Linear(weight, bias))
    OURS.gated(x, layer, activation, products, ours)
    PLAIN.gated(multiplied(x), Linear(rounded(weight, form), bias), activation, products, plain)
    torch.testing.assert_close(ours, plain, **CLOSE)


@FORMATS
def test_embed_gives_the_very_numbers(form: Format) -> None:
    weight = normal(61, 96)
    layer = QuantizedPanels(form).linear(Linear(weight, None))
    ids, ours = torch.tensor([60, 0, 31, 32, 0]), torch.empty(5, 96)
    OURS.embed(ids, layer, ours)
    assert torch.equal(ours, rounded(weight, form)[ids])
    for outside in (-1, 61):
        with pytest.raises(IndexError):
            OURS.embed(torch.tensor([0, outside]), layer, torch.empty(2, 96))


@FORMATS
def test_rows_of_no_whole_groups_stay_in_their_dtype(form: Format) -> None:
    layer = QuantizedPanels(form).linear(Linear(normal(64, 48), None))
    assert layer.scales is None
    assert layer.weight.dtype == torch.float32
    assert QuantizedPanels(form).gated(Linear(normal(64, 48), None)).scales is None
