"""FusedOps on the CPU: numba kernels on the tensors' own memory."""

import numba
import numpy as np
import torch

from common.engine.cpu import step_kernels
from common.engine.cpu.arrays import Array, as_array, as_words
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import Compiled
from common.engine.cpu.matmul_kernel import DEPTH, OUTPUTS, skinny_matmul
from common.engine.cpu.panel import TILE_ROWS, WIDTH
from common.engine.cpu.panel_matmul import (
    panel_gelu_tanh,
    panel_matmul,
    panel_silu,
    rows_of_panels,
)
from common.engine.fused.ops import gate, matmul
from common.engine.fused.weights import Activation, Linear

# up to so many tokens the product of few rows is faster than the library's, for weights that are not in
# panels; the library's for float16 has no instruction of the CPU to stand on and never is the faster one
_SKINNY_TOKENS = {torch.bfloat16: 40, torch.float32: 128, torch.float16: 1 << 30}
_NO_BIAS = np.zeros(0, np.float32)
_PART_TOKENS = 2 * TILE_ROWS  # a thread that reads a panel uses it for so many


class CpuOps:
    """See FusedOps for every method."""

    def embed(self, ids: torch.Tensor, embedding: torch.Tensor, out: torch.Tensor) -> None:
        """Rows of a matrix or, where the embedding is the head, of its panels."""
        if embedding.dim() == 2:
            out.copy_(embedding[ids])
            return
        panels = as_words(embedding).reshape(embedding.shape[:3])
        if not 0 <= int(ids.min()) <= int(ids.max()) < len(panels) * WIDTH:
            raise IndexError("a token id is outside the vocabulary")
        rows = embedding.new_empty(out.shape)
        rows_of_panels(ids.numpy(), panels, as_words(rows).reshape(len(rows), -1))
        out.copy_(rows)

    def linear(self, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
        """The product that is fastest for this layer and number of tokens."""
        if layer.is_panels:
            _by_panels(panel_matmul, x, layer, out)
        elif len(x) <= _SKINNY_TOKENS.get(x.dtype, 0) and _tiles(layer):
            skinny_matmul(*_arrays(x, layer, out))
        else:
            matmul(x, layer, out)

    def gated(
        self,
        x: torch.Tensor,
        gate_up: Linear,
        activation: Activation,
        products: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """On panels in one go; else the products first."""
        is_silu = activation == "silu"
        if gate_up.is_panels:
            _by_panels(panel_silu if is_silu else panel_gelu_tanh, x, gate_up, out)
            return
        self.linear(x, gate_up, products)
        if out.shape[1] % LANES:
            gate(products, activation, out)
        elif is_silu:
            step_kernels.silu_gate(as_array(products), as_array(out))
        else:
            step_kernels.gelu_tanh_gate(as_array(products), as_array(out))

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
        """RMS norm of rows."""
        step_kernels.rms_norm(as_array(x), weight.numpy(), np.float32(eps), as_array(out))

    def add_norm(
        self,
        residual: torch.Tensor,
        delta: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        out: torch.Tensor,
    ) -> None:
        """Residual sum and RMS norm in one pass."""
        step_kernels.add_rms_norm(
            as_array(residual), as_array(delta), weight.numpy(), np.float32(eps), as_array(out)
        )

    def norm_heads(
        self, x: torch.Tensor, first: int, end: int, weight: torch.Tensor, eps: float
    ) -> None:
        """RMS norm of heads in place."""
        step_kernels.norm_heads(as_array(x), first, end, weight.numpy(), np.float32(eps))

    def rotate(self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Rotary embedding in place."""
        step_kernels.rotate(as_array(x), heads, cos.numpy(), sin.numpy())


def _by_panels(kernel: Compiled, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
    kernel(*_arrays(x, layer, out), _parts(len(x), len(layer.weight)))


def _arrays(x: torch.Tensor, layer: Linear, out: torch.Tensor) -> tuple[Array, Array, Array, Array]:
    bias = _NO_BIAS if layer.bias is None else layer.bias.float().numpy()
    return as_array(x), as_array(layer.weight), bias, as_array(out)


def _tiles(layer: Linear) -> bool:
    fits: bool = layer.weight.shape[0] % OUTPUTS == 0 and layer.weight.shape[1] % DEPTH == 0
    return fits


def _parts(tokens: int, panels: int) -> int:
    """Into how many parts the tokens are cut, for every thread to have enough to do."""
    wanted: int = -(-4 * numba.get_num_threads() // panels)
    return max(min(wanted, tokens // _PART_TOKENS), 1)
