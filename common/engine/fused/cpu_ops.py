"""FusedOps on the CPU: numba kernels on the tensors' own memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.attention.step_arrays import MOST_DECODED
from common.engine.cpu import step_kernels
from common.engine.cpu.activation import GELU_TANH, SILU
from common.engine.cpu.arrays import Array, as_array
from common.engine.cpu.integer_matmul import integer_product
from common.engine.cpu.jit import Compiled
from common.engine.cpu.packed import partner_of
from common.engine.cpu.panel import PLAIN, TILE_ROWS
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
from common.engine.cpu.recorder import Recorder
from common.engine.cpu.threads import get_num_threads
from common.engine.fused.block_scales import num_groups
from common.engine.fused.ops import gate, matmul
from common.engine.fused.quantized_panels import is_for_integers
from common.engine.fused.weights import Activation, Linear

_NO_BIAS = np.zeros(0, np.float32)
_STORAGE = {torch.float32: "float32", torch.bfloat16: "uint16", torch.float16: "int16"}


@dataclass(frozen=True, slots=True)
class _Kernels:
    """Kernels of one product, by what the panels hold."""

    full: Compiled
    quantized: Compiled  # of small integers, widened
    kind: int  # of products with rows of integers


_PLAIN = _Kernels(panel_matmul, quantized_matmul, PLAIN)
_SILU = _Kernels(panel_silu, quantized_silu, SILU)
_GELU_TANH = _Kernels(panel_gelu_tanh, quantized_gelu_tanh, GELU_TANH)
_KEPT_ROWS = MOST_DECODED  # of steps whose calls are kept
_PART_TOKENS = 2 * TILE_ROWS  # a thread that reads a panel uses it for so many


class CpuOps:
    """FusedOps in numba kernels; weights may lie in panels, of their own dtype or of small integers.

    `is_quantized` says that products are with small integers, whose kernels want float32. All calls are
    made by `recorder`.
    """

    def __init__(self, *, is_quantized: bool = False, recorder: Recorder | None = None) -> None:
        self._is_quantized = is_quantized
        self._recorder = recorder or Recorder()
        self._kept: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def recorded_by(self, recorder: Recorder) -> "CpuOps":
        """Return the same operations, called by another recorder."""
        return CpuOps(is_quantized=self._is_quantized, recorder=recorder)

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Implement FusedOps.input_dtype: float32 where numbers would be widened for every product."""
        return torch.float32 if self._is_quantized else _partner(dtype)

    def embed(self, ids: torch.Tensor, embedding: Linear, out: torch.Tensor) -> None:
        """Copy rows of a matrix or, where the embedding is the head, of its panels. See check_ids."""
        numbers, weight = ids.numpy(), embedding.weight
        check_ids(numbers, embedding)
        if not embedding.is_panels:
            self._by_torch(_copy_rows, weight, ids, out)
        elif embedding.scales is None:
            self._recorder.call(rows_of_panels, numbers, as_array(weight), as_array(out))
        else:
            levels, scales = as_array(weight), as_array(embedding.scales)
            self._recorder.call(rows_of_quantized, numbers, levels, scales, as_array(out))

    def scale(self, x: torch.Tensor, factor: torch.Tensor) -> None:
        """Implement FusedOps.scale."""
        self._by_torch(x.mul_, factor)

    def linear(self, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
        """Multiply by panels, or by torch where a weight is not in panels."""
        if layer.is_panels:
            self._by_panels(_PLAIN, x, layer, out)
        else:
            self._by_torch(matmul, self._converted(x, layer.weight.dtype), layer, out)

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
            self._by_panels(_SILU if activation == "silu" else _GELU_TANH, x, gate_up, out)
        else:
            self.linear(x, gate_up, products)
            self._by_torch(gate, products, activation, out)

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
        """Implement FusedOps.norm."""
        rows = as_array(x), weight.numpy(), np.float32(eps), as_array(out)
        self._recorder.call(step_kernels.rms_norm, *rows)

    def add_norm(
        self,
        residual: torch.Tensor,
        delta: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        out: torch.Tensor,
    ) -> None:
        """Add and normalise in one pass."""
        sums = as_array(residual), as_array(delta)
        norm = weight.numpy(), np.float32(eps), as_array(out)
        self._recorder.call(step_kernels.add_rms_norm, *sums, *norm)

    def norm_heads(
        self, x: torch.Tensor, first: int, end: int, weight: torch.Tensor, eps: float
    ) -> None:
        """Implement FusedOps.norm_heads."""
        heads = as_array(x), first, end, weight.numpy(), np.float32(eps)
        self._recorder.call(step_kernels.norm_heads, *heads)

    def rotate(self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Implement FusedOps.rotate."""
        self._recorder.call(step_kernels.rotate, as_array(x), heads, cos.numpy(), sin.numpy())

    def _by_torch(self, function: Callable[..., object], *args: object) -> None:
        self._recorder.call(_without_gradients, function, *args)

    def _by_panels(
        self, kernels: _Kernels, x: torch.Tensor, layer: Linear, out: torch.Tensor
    ) -> None:
        if layer.scales is not None:
            self._by_quantized(kernels, x, layer, as_array(out))
            return
        bias = _NO_BIAS if layer.bias is None else layer.bias.numpy()
        rows = as_array(self._converted(x, _partner(layer.weight.dtype)))
        parts = _parts(len(x), len(layer.weight))
        given = rows, as_array(layer.weight), bias, as_array(out), parts
        self._recorder.call(kernels.full, *given)

    def _by_quantized(self, kernels: _Kernels, x: torch.Tensor, layer: Linear, out: Array) -> None:
        """Multiply by each form of panels that a weight has; their columns lie side by side."""
        rows, first = as_array(self._converted(x, torch.float32)), 0
        for one in (layer, *layer.rest):
            if one.scales is None:
                raise TypeError("all forms of one weight are of small integers")
            # gated ones are half as many
            end = first + one.own_features if layer.rest else out.shape[1]
            bias = _NO_BIAS if one.bias is None else one.bias.numpy()
            parts = _parts(len(rows), len(one.weight))
            given = as_array(one.weight), as_array(one.scales), bias, out, first, end, parts
            if is_for_integers(x.shape[1], num_groups(one.scales, x.shape[1])):
                self._by_integers(kernels.kind, rows, given)
            else:
                self._recorder.call(kernels.quantized, rows, *given)
            first = end

    def _by_integers(self, kind: int, x: Array, given: tuple[Any, ...]) -> None:
        (tokens, depth), words = x.shape, given[0]
        product = integer_product(kind, tokens, depth, words)
        memory = self._reserve(torch.Size((tokens, product.row_bytes(depth))), torch.uint8)
        rows = product.rows_in(as_array(memory), depth)
        self._recorder.call(product.split, x, *rows)
        self._recorder.call(product.multiply, *rows, *given)

    def _converted(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return x, or memory of another dtype to which it is copied, in every step that repeats this one."""
        if x.dtype == dtype:
            return x
        converted = self._reserve(x.shape, dtype)
        self._recorder.call(step_kernels.convert, as_array(x), as_array(converted))
        return converted

    def _reserve(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Return memory for rows: one for all products of few rows, which use it one after the other."""
        rows, width = shape
        if rows > _KEPT_ROWS:
            return torch.empty(shape, dtype=dtype)
        if (width, dtype) not in self._kept:
            self._kept[width, dtype] = torch.empty(_KEPT_ROWS, width, dtype=dtype)
        return self._kept[width, dtype][:rows]


def check_ids(ids: NDArray[np.int64], embedding: Linear) -> None:
    """Raise IndexError for a token id that has no row; whoever repeats `embed` must call this first."""
    numbers = ids.tolist()
    if not 0 <= min(numbers) <= max(numbers) < embedding.out_features:
        raise IndexError("a token id is outside the vocabulary")


def _without_gradients(function: Callable[..., object], *args: object) -> None:
    with torch.inference_mode():
        function(*args)


def _copy_rows(weight: torch.Tensor, ids: torch.Tensor, out: torch.Tensor) -> None:
    out.copy_(weight[ids])


def _partner(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the rows that kernels multiply with weights of `dtype`."""
    return dtype if partner_of(_STORAGE[dtype]) == _STORAGE[dtype] else torch.float32


def _parts(tokens: int, panels: int) -> int:
    """Return the number of parts to cut the tokens into, so that every thread has enough to do."""
    wanted: int = -(-4 * get_num_threads() // panels)
    return max(min(wanted, tokens // _PART_TOKENS), 1)
