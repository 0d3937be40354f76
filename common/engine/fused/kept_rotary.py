"""Rotary tables of decode steps, in memory that stays where it is."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.cpu.arrays import Array
from common.engine.fused.decoder import Tables

Compute = Callable[[torch.Tensor], Tables]  # from positions [T]
# kinds of scaling under which a position's angles depend on nothing else
_FIXED = frozenset({"default", "linear", "llama3", "yarn"})
_PAGE = 256  # positions that are computed at once


def is_fixed(kinds: str | dict[str, str]) -> bool:
    """Return True if tables are those of single positions, by the `rope_type` of a rotary module."""
    return _FIXED.issuperset(kinds.values() if isinstance(kinds, dict) else [kinds])


class KeptRotary:
    """Rows of rotary tables, [most rows, rotary dim] for each kind; a step fills the first ones.

    `compute` takes a small model as long as a tenth of its step. With `is_fixed`, rows are kept by position,
    of which there are `most_positions`, and computed a page at a time. They take 8 bytes a channel and
    position, once a position was there.
    """

    def __init__(
        self, compute: Compute, most_rows: int, most_positions: int, is_fixed: bool
    ) -> None:
        self._compute, self._is_fixed = compute, is_fixed
        with torch.inference_mode():
            first = compute(torch.zeros(1, dtype=torch.int64))
        self._tables: Tables = {
            kind: (cos.new_empty(most_rows, cos.shape[1]), sin.new_empty(most_rows, sin.shape[1]))
            for kind, (cos, sin) in first.items()
        }
        pages = -(-most_positions // _PAGE)
        self._is_known = [False] * pages
        # pages of memory that no position has touched take no memory
        self._kept = [np.empty((pages * _PAGE, x.shape[1]), np.float32) for x in _flat(first)]
        self._rows = [x.numpy() for x in _flat(self._tables)]

    def first(self, rows: int) -> Tables:
        """Return the first rows of the tables."""
        return {kind: (cos[:rows], sin[:rows]) for kind, (cos, sin) in self._tables.items()}

    def fill(self, positions: NDArray[np.int64]) -> None:
        """Fill the first rows: those of positions [T]."""
        pages = {position // _PAGE for position in positions.tolist()}
        # a router lets no sequence beyond `most_positions`; who asks a worker himself may go there
        if self._is_fixed and max(pages) < len(self._is_known):
            found = self._looked_up(pages, positions)
        else:
            found = self._computed(positions)
        for rows, new in zip(self._rows, found, strict=True):
            rows[: len(positions)] = new

    def _looked_up(self, pages: set[int], positions: NDArray[np.int64]) -> list[Array]:
        for page in pages:
            if not self._is_known[page]:
                self._compute_page(page)
        return [kept[positions] for kept in self._kept]

    def _compute_page(self, page: int) -> None:
        span = np.arange(page * _PAGE, (page + 1) * _PAGE)
        for kept, new in zip(self._kept, self._computed(span), strict=True):
            kept[span[0] : span[-1] + 1] = new
        self._is_known[page] = True

    def _computed(self, positions: NDArray[np.int64]) -> list[Array]:
        with torch.inference_mode():
            return [x.numpy() for x in _flat(self._compute(torch.from_numpy(positions)))]


def _flat(tables: Tables) -> list[torch.Tensor]:
    return [x for pair in tables.values() for x in pair]
