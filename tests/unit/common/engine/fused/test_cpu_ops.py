"""The CPU's kernels give what plain torch gives."""

import numpy as np
import pytest
import torch

from common.engine.cpu.arrays import as_array
from common.engine.cpu.panel_matmul import panel_matmul
from common.engine.fused.cpu_ops import CpuOps
from common.engine.fused.ops import TorchOps
from common.engine.fused.weights import Activation, Linear

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
OURS, PLAIN = CpuOps(), TorchOps()


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same(ours: torch.Tensor, plain: torch.Tensor) -> None:
    tolerance = TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6, 7, 9, 33, 150])
@pytest.mark.parametrize("outputs", [48, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear(dtype: torch.dtype, tokens: int, outputs: int, has_bias: bool) -> None:
    """Few rows, panels (of 64 outputs) and the library, whose turn comes with 150 rows, in float32 with 33."""
    x, weight = normal(tokens, 96, dtype=dtype), normal(outputs, 96, dtype=dtype, seed=1) / 10
    bias = normal(outputs, dtype=dtype, seed=2) if has_bias else None
    ours = torch.full((tokens, outputs), float("nan"), dtype=dtype)
    OURS.linear(x, Linear(weight, bias), ours)
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(ours.double(), exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_parts", [1, 3])
@pytest.mark.parametrize("num_tokens", [1, 2, 11, 12, 23, 40])
def test_a_row_by_panels_does_not_depend_on_how_many_there_are(
    dtype: torch.dtype, num_parts: int, num_tokens: int
) -> None:
    x, weight = normal(40, 96, dtype=dtype), normal(64, 96, dtype=dtype, seed=1) / 10
    bias, exact = np.zeros(0, np.float32), x.double() @ weight.double().T
    some, every = (torch.full((n, 64), float("nan")) for n in (num_tokens, 40))
    panel_matmul(as_array(x[:num_tokens]), as_array(weight), bias, as_array(some), num_parts)
    panel_matmul(as_array(x), as_array(weight), bias, as_array(every), 1)
    assert torch.equal(some, every[:num_tokens])
    torch.testing.assert_close(every.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 96), (48, 80)])
def test_linear_of_a_shape_that_our_product_does_not_tile(shape: tuple[int, int]) -> None:
    x, weight = normal(3, shape[1]), normal(*shape, seed=1)
    ours = torch.empty(3, shape[0])
    OURS.linear(x, Linear(weight, None), ours)
    torch.testing.assert_close(ours, x @ weight.T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [7, 50])
def test_a_row_of_nan_stays_in_its_row(dtype: torch.dtype, tokens: int) -> None:
    x, weight = normal(tokens, 96, dtype=dtype), normal(64, 96, dtype=dtype, seed=1)
    clean, marked = (torch.empty(tokens, 64, dtype=dtype) for _ in range(2))
    OURS.linear(x, Linear(weight, None), clean)
    x[3] = float("nan")
    OURS.linear(x, Linear(weight, None), marked)
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
    """With a rotary dim of 8, the other half of each head passes through."""
    ours, plain = normal(3, 5, 16, dtype=dtype), normal(3, 5, 16, dtype=dtype)
    angles = normal(3, rotary_dim // 2, seed=1).repeat(1, 2)
    OURS.rotate(ours, 4, angles.cos(), angles.sin())
    PLAIN.rotate(plain, 4, angles.cos(), angles.sin())
    assert_same(ours, plain)
    assert torch.equal(ours[:, 4], normal(3, 5, 16, dtype=dtype)[:, 4])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gates(dtype: torch.dtype, activation: Activation) -> None:
    gate_up = normal(6, 64, dtype=dtype) * 4
    gate_up[0, :6] = torch.tensor([100.0, -100.0, 3e38, -3e38, float("nan"), 0.0])
    ours, plain = torch.empty(6, 32, dtype=dtype), torch.empty(6, 32, dtype=dtype)
    OURS.gate(gate_up, ours, activation)
    PLAIN.gate(gate_up, plain, activation)
    assert_same(ours, plain)
