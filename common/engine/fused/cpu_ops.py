"""FusedOps on the CPU: numba kernels on the tensors' own memory."""

import numba
import numpy as np
import torch

from common.engine.cpu import step_kernels
from common.engine.cpu.arrays import as_array
from common.engine.cpu.emit import LANES
from common.engine.cpu.matmul_kernel import DEPTH, OUTPUTS, skinny_matmul
from common.engine.cpu.packed import HAS_BF16_DOT
from common.engine.cpu.panel import HAS_REGISTERS
from common.engine.cpu.panel_matmul import DEPTH as PANEL_DEPTH
from common.engine.cpu.panel_matmul import OUTPUTS as PANEL_OUTPUTS
from common.engine.cpu.panel_matmul import panel_matmul
from common.engine.fused.ops import matmul
from common.engine.fused.weights import Activation, DecoderWeights, Linear

# where the product by panels is faster than the library's; without so many registers it is not
_PANELS = {torch.bfloat16: HAS_REGISTERS and HAS_BF16_DOT, torch.float32: HAS_REGISTERS}
# up to so many tokens the product of few rows is the fastest; measured on Zen 5 (docs/engine.md), where the
# library's for float16 has no instruction of the CPU to stand on and never is
_SKINNY_TOKENS = {
    torch.bfloat16: 40,
    torch.float32: 32 if _PANELS[torch.float32] else 128,
    torch.float16: 1 << 30,
}
_NO_BIAS = np.zeros(0, np.float32)
_PART_TOKENS = 96  # laying panels out takes a tenth of the time of so many


class CpuOps:
    """See FusedOps for every method."""

    def linear(self, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
        """The product that is fastest for this number of tokens."""
        is_skinny = len(x) <= _SKINNY_TOKENS.get(x.dtype, 0)
        unit = (OUTPUTS, DEPTH) if is_skinny else (PANEL_OUTPUTS, PANEL_DEPTH)
        if not _tiles(layer, *unit) or not (is_skinny or _PANELS.get(x.dtype, False)):
            matmul(x, layer, out)
            return
        bias = _NO_BIAS if layer.bias is None else layer.bias.float().numpy()
        arrays = as_array(x), as_array(layer.weight), bias, as_array(out)
        if is_skinny:
            skinny_matmul(*arrays)
        else:
            panel_matmul(*arrays, _parts(len(x), layer.out_features))

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


def _tiles(layer: Linear, outputs: int, depth: int) -> bool:
    fits: bool = layer.weight.shape[0] % outputs == 0 and layer.weight.shape[1] % depth == 0
    return fits


def _parts(tokens: int, outputs: int) -> int:
    """Into how many parts the tokens are cut, for every thread to have enough panels."""
    wanted: int = -(-4 * numba.get_num_threads() * PANEL_OUTPUTS // outputs)
    return max(min(wanted, tokens // _PART_TOKENS), 1)
