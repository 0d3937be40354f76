"""Layout of held weights in full width, where our kernels cannot run."""

import torch

from common.engine.fused.weights import Linear, RowsDone, keep_rows

_CHUNK_NUMBERS = 1 << 22  # of a weight that are unpacked at a time


class Dequantized:
    """Layout in a dtype for TorchOps: the numbers are the file's, the size is not."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def linear(self, layer: Linear) -> Linear:
        """Dequantize a product's weight."""
        if layer.held is None:
            return layer
        parts = (layer, *layer.rest)
        weight = torch.cat([self._full(part) for part in parts])
        biases = [part.bias for part in parts if part.bias is not None]
        return Linear(weight, torch.cat(biases) if biases else None)

    gated = linear

    def head(self, layer: Linear, done: RowsDone = keep_rows) -> Linear:
        """Dequantize the head as any product."""
        return self.linear(layer)

    def _full(self, part: Linear) -> torch.Tensor:
        if part.held is None:
            raise TypeError("all parts of a weight are held, or none")
        num_rows = max(_CHUNK_NUMBERS // part.held.num_columns, 1)
        chunks = torch.arange(part.held.num_rows).split(num_rows)
        return torch.cat([part.held.rows(n).dequantized().to(self._dtype) for n in chunks])
