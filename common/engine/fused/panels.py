"""Layout of weights that the CPU reads fastest: in panels (cpu/panel.py), once, at load."""

import torch
from torch.nn import functional

from common.engine.cpu.arrays import as_words
from common.engine.cpu.emit import LANES
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.panel_matmul import lay_out_panels
from common.engine.fused.weights import Linear, RowsDone, keep_rows
from common.engine.memory.huge_pages import Allocate, HugePages, plain

_WORD_BYTES = 4
_AT_A_TIME_BYTES = 2**24


class Panels:
    """Layout in panels. A weight whose rows are no whole number of words stays as it is."""

    def __init__(self, memory: HugePages | None = None) -> None:
        self._memory = memory or HugePages()

    def linear(self, layer: Linear) -> Linear:
        """Lay out a product for CpuOps.linear."""
        return self._laid_out(layer, layer.weight, layer.bias) if _can_pack(layer.weight) else layer

    def head(self, layer: Linear, done: RowsDone = keep_rows) -> Linear:
        """Lay out the head some rows at a time: in a small model it is a fifth of all weights."""
        if not _can_pack(layer.weight):
            return layer
        return self._laid_out(layer, layer.weight, layer.bias, done)

    def gated(self, layer: Linear) -> Linear:
        """Put LANES rows of the gate and as many of up into every panel, so that a tile can gate its sums."""
        if not _can_pack(layer.weight):
            return layer
        bias = None if layer.bias is None else dealt(layer.bias)
        return self._laid_out(layer, dealt(layer.weight), bias)

    def _laid_out(
        self,
        layer: Linear,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        done: RowsDone = keep_rows,
    ) -> Linear:
        biases = None if bias is None else padded(bias.float(), WIDTH)
        panels = to_panels(weight, done, self._memory.empty)
        return Linear(panels, biases, num_outputs=layer.out_features)


def to_panels(
    weight: torch.Tensor, done: RowsDone = keep_rows, allocate: Allocate = plain
) -> torch.Tensor:
    """Lay out weight [N, K] as panels [ceil(N / WIDTH), K / pack, WIDTH, pack]; zeros fill the last one."""
    pack, num_panels = _pack(weight), -(-len(weight) // WIDTH)
    panels = allocate((num_panels, weight.shape[1] // pack, WIDTH, pack), weight.dtype)
    words = as_words(panels).reshape(panels.shape[:3])
    step = max(_AT_A_TIME_BYTES // max(panels[:1].nbytes, 1), 1)
    for first in range(0, num_panels, step):
        rows = weight[first * WIDTH : (first + step) * WIDTH]
        whole = padded(rows, WIDTH)
        lay_out_panels(as_words(whole).reshape(len(whole), -1), words[first : first + step])
        done(rows)
    return panels


def _can_pack(weight: torch.Tensor) -> bool:
    """Return True if rows split into whole words and the dtype is a float that kernels read."""
    is_whole: bool = weight.shape[1] % _pack(weight) == 0
    return is_whole and weight.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _pack(weight: torch.Tensor) -> int:
    item_bytes: int = weight.itemsize
    return _WORD_BYTES // item_bytes


def dealt(rows: torch.Tensor) -> torch.Tensor:
    """Deal rows [2n, ...]: LANES of the first half, then of the second, in turns; zeros fill the last run."""
    halves = [padded(half, LANES) for half in rows.chunk(2)]
    return torch.stack([half.unflatten(0, (-1, LANES)) for half in halves], dim=1).flatten(0, 2)


def padded(rows: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return rows [n, ...] and zeros up to a multiple."""
    lacking = -len(rows) % multiple
    if not lacking:
        return rows
    return functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, lacking))
