"""Layout of held weights in full width, where our kernels cannot run."""

import torch

from common.engine.fused.weights import Linear, RowsDone, keep_rows


class Dequantized:
    """Layout in a dtype for TorchOps: the numbers are the file's, the size is not."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def linear(self, layer: Linear) -> Linear:
        """Dequantize a product's weight."""
        if layer.held is None:
            return layer
        parts = (layer, *layer.rest)
        num_rows = sum(part.own_features for part in parts)
        weight = torch.empty(num_rows, layer.weight.shape[1], dtype=self._dtype)
        for part, rows in zip(parts, weight.split([p.own_features for p in parts]), strict=True):
            _fill(rows, part)
        biases = [part.bias for part in parts if part.bias is not None]
        return Linear(weight, torch.cat(biases) if biases else None)

    gated = linear

    def head(self, layer: Linear, done: RowsDone = keep_rows) -> Linear:
        """Dequantize the head as any product."""
        return self.linear(layer)


def _fill(rows: torch.Tensor, part: Linear) -> None:
    """Write a held weight into its rows [N, K], a chunk at a time."""
    if part.held is None:
        raise TypeError("all parts of a weight are held, or none")
    for numbers in part.held.chunks():
        rows[numbers] = part.held.rows(numbers).dequantized().to(rows.dtype)
