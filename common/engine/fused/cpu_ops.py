"""FusedOps on the CPU: numba kernels on the tensors' own memory."""

import numpy as np
import torch

from common.engine.cpu import step_kernels
from common.engine.cpu.arrays import as_array
from common.engine.cpu.emit import LANES
from common.engine.cpu.matmul_kernel import DEPTH, OUTPUTS, skinny_matmul
from common.engine.fused.ops import matmul
from common.engine.fused.weights import Activation, DecoderWeights, Linear

# up to so many tokens our product is the faster one; measured on Zen 5 (docs/engine.md), where the library's
# for float16 has no instruction of the CPU to stand on and never is
_SKINNY_TOKENS = {torch.bfloat16: 40, torch.float32: 128, torch.float16: 1 << 30}
_NO_BIAS = np.zeros(0, np.float32)


class CpuOps:
    """See FusedOps for every method."""

    def linear(self, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
        """The product that is faster for this number of tokens."""
        if len(x) > _SKINNY_TOKENS.get(x.dtype, 0) or not _tiles(layer):
            matmul(x, layer, out)
            return
        bias = _NO_BIAS if layer.bias is None else layer.bias.float().numpy()
        skinny_matmul(as_array(x), as_array(layer.weight), bias, as_array(out))

    @staticmethod
    def fits(weights: DecoderWeights) -> bool:
        """Whether the gate's vectors tile every MLP."""
        return all(layer.gate_up.out_features % (2 * LANES) == 0 for layer in weights.layers)

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

    def gate(self, gate_up: torch.Tensor, out: torch.Tensor, activation: Activation) -> None:
        """Gated activation."""
        kernel = step_kernels.silu_gate if activation == "silu" else step_kernels.gelu_tanh_gate
        kernel(as_array(gate_up), as_array(out))


def _tiles(layer: Linear) -> bool:
    outputs, depth = layer.weight.shape
    fits: bool = outputs % OUTPUTS == 0 and depth % DEPTH == 0
    return fits
