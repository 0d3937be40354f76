"""Positions for modules that count them by themselves: RoBERTa's kinds, and the decoders of BART's.

Such a module numbers the columns of a call, which in a ragged batch belong to several sequences. So a module
of ours takes its place, and looks the step's positions up in the same table.
"""

from collections.abc import Iterator
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch.nn.functional import embedding

Module = Any  # modules of `transformers`, read by attribute name

_COUNTS = "create_position_ids_from_input_ids"


class StepPositions:
    """Positions [T] int64 of the step that runs; the model's caller sets them before each step."""

    positions: torch.Tensor


class _Place(NamedTuple):
    owner: Module
    name: str  # of the module in `owner`
    first_row: int  # of the table: that of position 0


def take_over_positions(model: Module) -> StepPositions:
    """Replace the modules that count positions; they read those of the step from what is returned."""
    step = StepPositions()
    for owner, name, first_row in list(_places(model)):
        setattr(owner, name, _OwnPositions(_own(getattr(owner, name)), first_row, step))
    for part in model.modules():
        if type(part).__name__ == "BigBirdEmbeddings":
            # zeros as long as the context, and a step may be longer: without them the model makes its own
            part._buffers.pop("token_type_ids", None)
    return step


class _OwnPositions(torch.nn.Module):  # type: ignore[misc]
    """Module in the place of one that embeds positions."""

    def __init__(self, theirs: Module, first_row: int, step: StepPositions) -> None:
        super().__init__()
        self.theirs, self._first_row, self._step = theirs, first_row, step

    def forward(self, *unused: object, **unused_too: object) -> torch.Tensor:
        """Return the table's rows for the step's positions, whichever are asked for.

        [T, n], but [1, T, n] in the place of a module that does all of the counting.
        """
        found = embedding(self._step.positions, _table(self.theirs)[self._first_row :])
        return found[None] if hasattr(self.theirs, _COUNTS) else found


def _places(model: Module) -> Iterator[_Place]:
    for owner in model.modules():
        if isinstance(owner, _OwnPositions):
            continue
        for name, module in owner.named_children():
            first_row = _first_row(owner, name, _own(module))
            if first_row is not None:
                yield _Place(owner, name, first_row)


def _first_row(owner: Module, name: str, module: Module) -> int | None:
    """Return the row of position 0 in a module's table; None where the module counts nothing."""
    for counting, is_one in ((owner, name == "position_embeddings"), (module, True)):
        # fairseq's way: the rows up to the padding token's are for padding
        if is_one and hasattr(counting, _COUNTS) and _table(module) is not None:
            return int(counting.padding_idx) + 1
    if not isinstance(module, torch.nn.Embedding):
        return None
    is_told_the_past = "past_key_values_length" in signature(type(module).forward).parameters
    return int(getattr(module, "offset", 0)) if is_told_the_past else None


def _table(module: Module) -> Any:
    """Return a module's table [rows, n]: learned, or of sines, which some keep as `weights`."""
    learned = getattr(module, "weight", None)
    return getattr(module, "weights", None) if learned is None else learned


def _own(module: Module) -> Module:
    """Return the model's own module, also where one of ours, for an earlier backend, has its place."""
    return module.theirs if isinstance(module, _OwnPositions) else module
