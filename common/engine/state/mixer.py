"""Module that keeps a state, and the way in which it runs on the tokens of one call."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.engine.state.layer_state import LayerState
from common.engine.state.layout import Key

Rows = tuple[torch.Tensor, ...]  # each with a row for every token: [B, tokens, ...]


@dataclass(frozen=True, slots=True)
class Mixer:
    """Module of one layer that reads and writes a part of the layer's state.

    `run` computes a call's tokens [B, tokens, channels] with their states. `give` makes what the module
    returns of the rows of all tokens. `keys` are the module's own part of the state; None: all of it.
    """

    layer: int
    module: torch.nn.Module
    run: Callable[[torch.Tensor, LayerState], Rows]
    give: Callable[[Rows], object]
    keys: frozenset[Key] | None = None


def alone(rows: Rows) -> object:
    """Return the output of a module that returns one tensor."""
    return rows[0]


def with_nothing(rows: Rows) -> object:
    """Return the output of a module that returns a tensor and something that its caller drops."""
    return rows[0], None
