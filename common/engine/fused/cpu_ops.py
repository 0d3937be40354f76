"""FusedOps on the CPU: numba kernels on the tensors' own memory."""

from dataclasses import dataclass

import numpy as np
import torch

from common.engine.cpu import step_kernels
from common.engine.cpu.arrays import Array, as_array, as_words
from common.engine.cpu.jit import Compiled
from common.engine.cpu.packed import partner_of
from common.engine.cpu.panel import TILE_ROWS
from common.engine.cpu.panel_matmul import (
    panel_gelu_tanh,
    panel_matmul,
    panel_silu,
    rows_of_panels,
)
from common.engine.cpu.quantized_matmul import (
    quantized_gelu_tanh,
    quantized_matmul,
    quantized_silu,
    rows_of_quantized,
)
from common.engine.cpu.threads import get_num_threads
from common.engine.fused.ops import gate, matmul
from common.engine.fused.weights import Activation, Linear

_NO_BIAS = np.zeros(0, np.float32)
_STORAGE = {torch.float32: "float32", torch.bfloat16: "uint16", torch.float16: "int16"}


@dataclass(frozen=True, slots=True)
class _Kernels:
    """Kernels of one product, by what the panels hold."""

    full: Compiled
    quantized: Compiled


_PLAIN = _Kernels(panel_matmul, quantized_matmul)
_SILU = _Kernels(panel_silu, quantized_silu)
_GELU_TANH = _Kernels(panel_gelu_tanh, quantized_gelu_tanh)
_PART_TOKENS = 2 * TILE_ROWS  # a thread that reads a panel uses it for so many


class CpuOps:
    """FusedOps in numba kernels; weights may lie in panels, of their own dtype or of small integers.

    `is_quantized` says that products are with small integers, whose kernels want float32.
    """

    def __init__(self, *, is_quantized: bool = False) -> None:
        self._is_quantized = is_quantized

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Implement FusedOps.input_dtype: float32 where numbers would be widened for every product."""
        return torch.float32 if self._is_quantized else _partner(dtype)

    def embed(self, ids: torch.Tensor, embedding: Linear, out: torch.Tensor) -> None:
        """Copy rows of a matrix or, where the embedding is the head, of its panels."""
        weight = embedding.weight
        if not embedding.is_panels:
            out.copy_(weight[ids])
            return
        if not 0 <= int(ids.min()) <= int(ids.max()) < embedding.out_features:
            raise IndexError("a token id is outside the vocabulary")
        if embedding.scales is not None:
            scales = as_array(embedding.scales)
            rows_of_quantized(ids.numpy(), as_array(weight), scales, as_array(out))
            return
        rows = weight.new_empty(out.shape)
        panels = as_words(weight).reshape(weight.shape[:3])
        rows_of_panels(ids.numpy(), panels, as_words(rows).reshape(len(rows), -1))
        out.copy_(rows)

    def linear(self, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
        """Multiply by panels, or by torch where a weight is not in panels."""
        if layer.is_panels:
            _by_panels(_PLAIN, x, layer, out)
        else:
            matmul(x.to(layer.weight.dtype), layer, out)

    def gated(
        self,
        x: torch.Tensor,
        gate_up: Linear,
        activation: Activation,
        products: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """Compute products and gate in one pass over panels; without panels the products first."""
        if gate_up.is_panels and not gate_up.rest:
            _by_panels(_SILU if activation == "silu" else _GELU_TANH, x, gate_up, out)
        else:
            self.linear(x, gate_up, products)
            gate(products, activation, out)

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
        """Implement FusedOps.norm."""
        step_kernels.rms_norm(as_array(x), weight.numpy(), np.float32(eps), as_array(out))

    def add_norm(
        self,
        residual: torch.Tensor,
        delta: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        out: torch.Tensor,
    ) -> None:
        """Add and normalise in one pass."""
        step_kernels.add_rms_norm(
            as_array(residual), as_array(delta), weight.numpy(), np.float32(eps), as_array(out)
        )

    def norm_heads(
        self, x: torch.Tensor, first: int, end: int, weight: torch.Tensor, eps: float
    ) -> None:
        """Implement FusedOps.norm_heads."""
        step_kernels.norm_heads(as_array(x), first, end, weight.numpy(), np.float32(eps))

    def rotate(self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Implement FusedOps.rotate."""
        step_kernels.rotate(as_array(x), heads, cos.numpy(), sin.numpy())


def _by_panels(kernels: _Kernels, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
    if layer.scales is not None:
        _by_quantized(kernels.quantized, as_array(x.float()), layer, as_array(out))
        return
    bias = _NO_BIAS if layer.bias is None else layer.bias.numpy()
    rows = as_array(x.to(_partner(layer.weight.dtype)))
    parts = _parts(len(x), len(layer.weight))
    kernels.full(rows, as_array(layer.weight), bias, as_array(out), parts)


def _by_quantized(matmul: Compiled, rows: Array, layer: Linear, out: Array) -> None:
    """Multiply by each form of panels that a weight has; their columns lie side by side."""
    first = 0
    for one in (layer, *layer.rest):
        end = (
            first + one.own_features if layer.rest else out.shape[1]
        )  # gated ones are half as many
        if one.scales is None:
            raise TypeError("all forms of one weight are of small integers")
        bias = _NO_BIAS if one.bias is None else one.bias.numpy()
        parts = _parts(len(rows), len(one.weight))
        matmul(rows, as_array(one.weight), as_array(one.scales), bias, out, first, end, parts)
        first = end


def _partner(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the rows that kernels multiply with weights of `dtype`."""
    return dtype if partner_of(_STORAGE[dtype]) == _STORAGE[dtype] else torch.float32


def _parts(tokens: int, panels: int) -> int:
    """Return the number of parts to cut the tokens into, so that every thread has enough to do."""
    wanted: int = -(-4 * get_num_threads() // panels)
    return max(min(wanted, tokens // _PART_TOKENS), 1)
