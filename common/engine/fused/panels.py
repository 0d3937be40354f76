"""A decoder's weights as the CPU reads them fastest: laid out in panels, once, at load (cpu/panel.py)."""

from dataclasses import replace

import torch

from common.engine.cpu.arrays import as_words
from common.engine.cpu.emit import LANES
from common.engine.cpu.packed import HAS_BF16_DOT
from common.engine.cpu.panel import HAS_REGISTERS, WIDTH
from common.engine.cpu.panel_matmul import lay_out_panels
from common.engine.fused.weights import Linear

# the types whose products by panels are the fastest for any number of rows
_FAST = {torch.float32: HAS_REGISTERS, torch.bfloat16: HAS_BF16_DOT}
_WORD_BYTES = 4


class Panels:
    """See Layout. A weight stays as it is where panels do not fit the CPU, its dtype or its shape."""

    def linear(self, layer: Linear) -> Linear:
        """See Layout."""
        return replace(layer, weight=to_panels(layer.weight)) if _fits(layer.weight) else layer

    def gated(self, layer: Linear) -> Linear:
        """LANES rows of the gate and as many of up in every panel, so that a tile can gate its sums."""
        if not _fits(layer.weight):
            return layer
        bias = None if layer.bias is None else _dealt(layer.bias)
        return Linear(to_panels(_dealt(layer.weight)), bias)


def to_panels(weight: torch.Tensor) -> torch.Tensor:
    """weight [N, K], which panels must tile, as panels [N / WIDTH, K / pack, WIDTH, pack]."""
    outputs, pack = len(weight), _pack(weight)
    panels = weight.new_empty(outputs // WIDTH, weight.shape[1] // pack, WIDTH, pack)
    words = as_words(panels).reshape(panels.shape[:3])
    lay_out_panels(as_words(weight).reshape(outputs, -1), words)
    return panels


def _fits(weight: torch.Tensor) -> bool:
    outputs, depth = weight.shape
    is_fast = _FAST.get(weight.dtype, False)
    return is_fast and outputs % WIDTH == 0 and depth % (LANES * _pack(weight)) == 0


def _pack(weight: torch.Tensor) -> int:
    item_bytes: int = weight.itemsize
    return _WORD_BYTES // item_bytes


def _dealt(rows: torch.Tensor) -> torch.Tensor:
    """Rows [2n, ...] with runs of LANES of the first half and of the second in turns."""
    return rows.unflatten(0, (2, -1, LANES)).transpose(0, 1).flatten(0, 2).contiguous()
