"""Weights that were rounded to small integers, in full width again: what quantized kernels compute with.

CPUs without our kernels serve these, so that their numbers are those of the other workers. The self-check at
load compares with them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from common.engine.fused.quantize import (
    GROUP,
    HEAD_FORMAT,
    Format,
    PanelForm,
    can_quantize,
    quantize,
)
from common.engine.fused.weights import Linear, RowsDone, keep_rows

_ROWS = 4096  # of a weight that are rounded at a time: a head has hundreds of thousands


class Rounded:
    """Layout that rounds weights to a format's numbers and keeps them in their own dtype."""

    def __init__(
        self, form: Format | PanelForm, head: Format | PanelForm = HEAD_FORMAT, group: int = GROUP
    ) -> None:
        self._format = form
        self._head_format = head
        self._group = group

    def linear(self, layer: Linear) -> Linear:
        """Round a product's weight."""
        return Linear(rounded(layer.weight, self._format, self._group), layer.bias)

    gated = linear

    def head(self, layer: Linear, done: RowsDone = keep_rows) -> Linear:
        """Round the head's weight, to a format of its own."""
        return Linear(rounded(layer.weight, self._head_format, self._group), layer.bias)


def rounded(weight: torch.Tensor, form: Format | PanelForm, group: int = GROUP) -> torch.Tensor:
    """Return what a format leaves of a weight [N, K]: the weight itself where it cannot be quantized."""
    if not can_quantize(weight):
        return weight
    return quantize(weight, form, group).dequantized().to(weight.dtype)


@contextmanager
def rounded_products(model: nn.Module, form: Format | None) -> Iterator[None]:
    """Have a model's own modules compute with rounded weights, made one at a time; None changes nothing."""
    changed = dict(_rounded_forwards(model, form)) if form else {}
    for module, forward in changed.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _rounded_forwards(model: Any, form: Format) -> Iterator[tuple[Any, Callable[..., Any]]]:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    for module in model.modules():
        if type(module) is nn.Linear:
            yield module, _product_of(module, HEAD_FORMAT if module is head else form)
    if head.weight is embedding.weight:
        yield embedding, _embedding_of(embedding)


def _product_of(module: nn.Linear, form: Format) -> Callable[..., torch.Tensor]:
    def multiply(x: torch.Tensor) -> torch.Tensor:
        # in float32, as the kernels do: rounded once more, 4-bit weights are too far from theirs
        wide = x.float()
        parts = module.weight.split(_ROWS)
        product = torch.cat(
            [functional.linear(wide, rounded(rows.float(), form)) for rows in parts], dim=-1
        )
        return (product if module.bias is None else product + module.bias.float()).to(x.dtype)

    return multiply


def _embedding_of(module: Any) -> Callable[..., torch.Tensor]:
    def embed(ids: torch.Tensor) -> torch.Tensor:
        rows = functional.embedding(ids, module.weight)
        numbers = rounded(rows.flatten(0, -2), HEAD_FORMAT).view(rows.shape)
        scale = getattr(module, "embed_scale", None)  # Gemma3's
        return numbers if scale is None else numbers * scale.to(numbers.dtype)

    return embed
