"""Layout in panels of weights that are held as their file has them."""

import torch

from common.engine.cpu.panel import WIDTH
from common.engine.fused.held import CHUNK_NUMBERS, HeldWeight
from common.engine.fused.panels import Panels, dealt, padded
from common.engine.fused.quantized_panels import to_quantized_panels
from common.engine.fused.weights import Linear, RowsDone, keep_rows
from common.engine.memory.huge_pages import HugePages


class HeldPanels:
    """Layout in panels of each weight's own form. Weights that are not held lie in panels of their dtype."""

    def __init__(self) -> None:
        self._memory = HugePages()
        self._full = Panels(self._memory)

    def linear(self, layer: Linear) -> Linear:
        """Lay out a product for CpuOps.linear."""
        if layer.held is None:
            return self._full.linear(layer)
        rest = tuple(self.linear(one) for one in layer.rest)
        order = torch.arange(layer.held.num_rows)
        return self._laid_out(layer.held, order, layer.bias, rest)

    def head(self, layer: Linear, done: RowsDone = keep_rows) -> Linear:
        """Lay out the head as any product."""
        return self._full.head(layer, done) if layer.held is None else self.linear(layer)

    def gated(self, layer: Linear) -> Linear:
        """Deal the rows of gate and up as Panels does, where both have one form."""
        if layer.held is None:
            return self._full.gated(layer)
        if layer.rest:
            return self.linear(layer)
        order = dealt(torch.arange(layer.held.num_rows))
        bias = None if layer.bias is None else dealt(layer.bias)
        return self._laid_out(layer.held, order, bias, ())

    def _laid_out(
        self,
        held: HeldWeight,
        order: torch.Tensor,
        bias: torch.Tensor | None,
        rest: tuple[Linear, ...],
    ) -> Linear:
        """Lay out the rows of these numbers, a chunk at a time."""
        num_panels = -(-len(order) // WIDTH)
        chunk = max(CHUNK_NUMBERS // held.num_columns // WIDTH, 1)
        whole: list[torch.Tensor] = []
        for first in range(0, num_panels, chunk):
            parts = to_quantized_panels(held.rows(order[first * WIDTH : (first + chunk) * WIDTH]))
            whole = whole or [
                self._memory.empty((num_panels, *part.shape[1:]), part.dtype) for part in parts
            ]
            for target, part in zip(whole, parts, strict=True):
                # as bytes: torch has few operations on unsigned words
                target.view(torch.uint8)[first : first + len(part)] = part.view(torch.uint8)
        levels, scales = whole
        biases = None if bias is None else padded(bias.float(), WIDTH)
        return Linear(levels, biases, num_outputs=held.num_rows, scales=scales, rest=rest)
