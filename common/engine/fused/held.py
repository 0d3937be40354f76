"""Weights that are held as their file has them: small integers from the start, never a full matrix.

A loader puts HeldLinear and HeldEmbedding into a model in place of torch's modules. They compute from a part
of their rows at a time, for the self-check; the fusion pass reads their weights for panels.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from common.engine.fused.quantize import PanelForm, QuantizedWeight

_ROWS = 4096  # of a weight that are dequantized at a time: a head has hundreds of thousands


class HeldWeight(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Weight [N, K] in the form of its file; its parameters are the file's own tensors."""

    num_rows: int
    num_columns: int
    form: PanelForm
    group: int  # numbers of a row that share a scale

    def rows(self, numbers: torch.Tensor) -> QuantizedWeight:
        """Return the rows of these numbers, int64 [n], in that order."""
        raise NotImplementedError


class StackedWeights(HeldWeight):
    """Several weights of one form, one behind the other."""

    def __init__(self, parts: Iterable[HeldWeight]) -> None:
        super().__init__()
        self.parts: list[HeldWeight] = list(parts)
        first = self.parts[0]
        self.num_rows = sum(part.num_rows for part in self.parts)
        self.num_columns, self.form, self.group = first.num_columns, first.form, first.group

    def rows(self, numbers: torch.Tensor) -> QuantizedWeight:
        """Implement HeldWeight.rows."""
        found, start = [], 0
        for part in self.parts:
            wanted = numbers[(numbers >= start) & (numbers < start + part.num_rows)] - start
            found.append(part.rows(wanted))
            start += part.num_rows
        # back into the order that was asked for
        ends = torch.tensor([part.num_rows for part in self.parts]).cumsum(0)
        owner = torch.bucketize(numbers, ends, right=True)
        order = owner.argsort(stable=True).argsort()
        levels = torch.cat([weight.levels for weight in found])[order]
        scales = torch.cat([weight.scales for weight in found])[order]
        return QuantizedWeight(levels, scales, self.form.bits)


class HeldLinear(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Product y = x @ weight^T + bias with a held weight."""

    def __init__(self, held: HeldWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.held = held
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply in float32, as the kernels do, a part of the rows at a time."""
        wide = x.float()
        parts = torch.arange(self.held.num_rows).split(_ROWS)
        products = [functional.linear(wide, self.held.rows(n).dequantized()) for n in parts]
        product = torch.cat(products, dim=-1)
        return (product if self.bias is None else product + self.bias.float()).to(x.dtype)


class HeldEmbedding(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Look-up of rows of a held weight, given in `dtype`."""

    def __init__(
        self, held: HeldWeight, dtype: torch.dtype, scale: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.held = held
        self.dtype = dtype
        self.embed_scale = scale  # Gemma3's

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return rows [*ids.shape, K]."""
        rows = self.held.rows(ids.flatten()).dequantized().to(self.dtype)
        rows = rows.view(*ids.shape, -1)
        return rows if self.embed_scale is None else rows * self.embed_scale.to(self.dtype)


def held_forms(model: nn.Module) -> dict[PanelForm, bool]:
    """Return the forms of a model's held weights, and True for those of gates; none: no weight is held."""
    found: dict[PanelForm, bool] = {}
    for name, module in model.named_modules():
        if isinstance(module, HeldLinear | HeldEmbedding):
            form = module.held.form
            found[form] = found.get(form, False) or is_gate(name)
    return found


def is_gate(name: str) -> bool:
    """Return True if a module of this name gives a gate, with or without what is gated."""
    return name.rpartition(".")[2].startswith("gate_")
