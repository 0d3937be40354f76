"""The CPU's kernels give what plain torch gives."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from common.engine.cpu.arrays import as_array
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.panel_matmul import panel_matmul
from common.engine.fused import panels
from common.engine.fused.cpu_ops import CpuOps
from common.engine.fused.ops import TorchOps
from common.engine.fused.panels import Panels, to_panels
from common.engine.fused.weights import Activation, AsStored, Linear

Layout = Callable[[Linear], Linear]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
OURS, PLAIN = CpuOps(), TorchOps()


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same(ours: torch.Tensor, plain: torch.Tensor) -> None:
    tolerance = TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance, equal_nan=True)


LAYOUTS = pytest.mark.parametrize("layout", [AsStored().linear, Panels().linear])
# of outputs and depth: whole panels, a last one that is cut, rows that are no whole number of vectors
SHAPES = pytest.mark.parametrize("shape", [(64, 96), (40, 96), (33, 82), (7, 2)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [False, True])
@SHAPES
@LAYOUTS
def test_linear(dtype: torch.dtype, has_bias: bool, shape: tuple[int, int], layout: Layout) -> None:
    outputs, depth = shape
    weight = normal(*shape, dtype=dtype, seed=1) / 10
    bias = normal(outputs, dtype=dtype, seed=2) if has_bias else None
    layer = layout(Linear(weight, bias))
    assert layer.out_features == outputs
    for tokens in (1, 2, 3, 4, 5, 6, 7, 9, 33, 150):
        x = normal(tokens, depth, dtype=dtype)
        ours = torch.full((tokens, outputs), float("nan"), dtype=dtype)
        OURS.linear(x, layer, ours)
        exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(ours.double(), exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_panels_hold_the_rows_side_by_side(dtype: torch.dtype) -> None:
    weight = normal(64, 96, dtype=dtype)
    laid_out = to_panels(weight)
    for number in (0, 1, 8, 15, 16, 31, 32, 63):
        row = laid_out[number // WIDTH, :, number % WIDTH].reshape(-1)
        assert torch.equal(row, weight[number])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_head_is_laid_out_in_pieces_and_each_is_let_go(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    weight, pieces = normal(2 * WIDTH + 5, 96, dtype=dtype), list[torch.Tensor]()
    whole = to_panels(weight)
    monkeypatch.setattr(panels, "_AT_A_TIME_BYTES", whole[:1].nbytes)
    layer = Panels().head(Linear(weight, None), pieces.append)
    assert [len(piece) for piece in pieces] == [WIDTH, WIDTH, 5]
    assert torch.equal(torch.cat(pieces), weight)
    assert torch.equal(layer.weight, whole)
    assert layer.out_features == len(weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_row_of_half_a_word_stays_as_it_is(dtype: torch.dtype) -> None:
    layer = Linear(normal(64, 81, dtype=dtype), None)
    assert Panels().linear(layer) is layer
    assert Panels().gated(layer) is layer


@pytest.mark.parametrize("dtype", DTYPES)
@LAYOUTS
def test_embed(dtype: torch.dtype, layout: Layout) -> None:
    embedding = Linear(normal(64, 96, dtype=dtype), None)
    ids = torch.tensor([63, 0, 31, 32, 0])
    ours, plain = torch.empty(5, 96), torch.empty(5, 96)
    OURS.embed(ids, layout(embedding), ours)
    PLAIN.embed(ids, embedding, plain)
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("token_id", [-65, 61])
@LAYOUTS
def test_embed_reads_nothing_outside_the_vocabulary(token_id: int, layout: Layout) -> None:
    """Rows that fill the last panel are not read either."""
    embedding = layout(Linear(normal(61, 96), None))
    with pytest.raises(IndexError):
        OURS.embed(torch.tensor([0, token_id]), embedding, torch.empty(2, 96))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_parts", [1, 3])
@pytest.mark.parametrize("num_tokens", [1, 2, 11, 12, 23, 29, 40])
def test_a_row_by_panels_does_not_depend_on_how_many_there_are(
    dtype: torch.dtype, num_parts: int, num_tokens: int
) -> None:
    x, weight = normal(40, 96, dtype=dtype), normal(60, 96, dtype=dtype, seed=1) / 10
    bias, panels = np.zeros(0, np.float32), as_array(to_panels(weight))
    rows = as_array(x.to(OURS.input_dtype(dtype)))
    some, every = (torch.full((n, 60), float("nan")) for n in (num_tokens, 40))
    panel_matmul(rows[:num_tokens], panels, bias, as_array(some), num_parts)
    panel_matmul(rows, panels, bias, as_array(every), 1)
    assert torch.equal(some, every[:num_tokens])
    exact = x.double() @ weight.double().T
    torch.testing.assert_close(every.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [7, 50, 150])
def test_a_row_of_nan_stays_in_its_row(dtype: torch.dtype, tokens: int) -> None:
    x, weight = normal(tokens, 96, dtype=dtype), normal(64, 96, dtype=dtype, seed=1)
    clean, marked = (torch.empty(tokens, 64, dtype=dtype) for _ in range(2))
    layer = Panels().linear(Linear(weight, None))
    OURS.linear(x, layer, clean)
    x[3] = float("nan")
    OURS.linear(x, layer, marked)
    assert marked[3].isnan().all()
    others = torch.arange(tokens) != 3
    assert torch.equal(marked[others], clean[others])


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(dtype: torch.dtype) -> None:
    weight = normal(64)
    for ops in (OURS, PLAIN):
        residual, delta = normal(5, 64, dtype=dtype), normal(5, 64, dtype=dtype, seed=1)
        out = torch.empty_like(residual)
        ops.add_norm(residual, delta, weight, 1e-5, out)
        ops.norm(delta, weight, 1e-5, delta)  # in place
        heads = normal(5, 4, 16, dtype=dtype, seed=2)
        ops.norm_heads(heads, 1, 3, weight[:16], 1e-5)
        if ops is OURS:
            ours = (residual, out, delta, heads)
    for mine, plain in zip(ours, (residual, out, delta, heads), strict=True):
        assert_same(mine, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rotary_dim", [16, 8])
def test_rotate(dtype: torch.dtype, rotary_dim: int) -> None:
    """A rotary dim of 8 leaves the other half of each head as it is."""
    ours, plain = normal(3, 5, 16, dtype=dtype), normal(3, 5, 16, dtype=dtype)
    angles = normal(3, rotary_dim // 2, seed=1).repeat(1, 2)
    OURS.rotate(ours, 4, angles.cos(), angles.sin())
    PLAIN.rotate(plain, 4, angles.cos(), angles.sin())
    assert_same(ours, plain)
    assert torch.equal(ours[:, 4], normal(3, 5, 16, dtype=dtype)[:, 4])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("tokens", [6, 50])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("inner", [21, 24, 64])
def test_gated(
    dtype: torch.dtype, activation: Activation, tokens: int, has_bias: bool, inner: int
) -> None:
    """Gate and up lie in panels, dealt in turns, the last of which may be cut, or as stored."""
    x, weight = normal(tokens, 96, dtype=dtype), normal(2 * inner, 96, dtype=dtype, seed=1) / 10
    bias = normal(2 * inner, dtype=dtype, seed=2) if has_bias else None
    x[0], x[2] = 0, float("nan")
    x[1] *= 60  # beyond what the exponential knows
    layer, products = Linear(weight, bias), torch.empty(tokens, 2 * inner, dtype=dtype)
    wide = Linear(weight.float(), None if bias is None else bias.float())
    exact = torch.empty(tokens, inner)
    PLAIN.gated(x.float(), wide, activation, products.float(), exact)
    tolerance = 4 * TOLERANCE[dtype]  # products that are rounded, then gated
    for kept in (layer, Panels().gated(layer)):
        ours = torch.empty(tokens, inner, dtype=dtype)
        OURS.gated(x, kept, activation, products, ours)
        torch.testing.assert_close(
            ours.float(), exact, atol=tolerance, rtol=tolerance, equal_nan=True
        )
