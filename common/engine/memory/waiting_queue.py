"""Sequences that wait for memory. Touches no tensor."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from common.engine.sequence import Sequence

Rank = tuple[float, ...]
MAX_PASSES = 16
_LOOKAHEAD = 4


class WaitingQueue:
    """Queue that serves first come, first served, but lets a few smaller ones pass one that does not fit.

    Ageing: nobody passes a sequence that was passed MAX_PASSES times, so memory drains until it fits. Nobody
    passes one that has answered already, whose client is reading.
    """

    def __init__(self) -> None:
        self._queue: deque[Sequence] = deque()
        # to compute, which does not change while it waits
        self._num_tokens: dict[Sequence, int] = {}
        self.num_tokens = 0
        self._passes: dict[Sequence, int] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, seq: object) -> bool:
        return seq in self._num_tokens

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._queue)

    def append(self, seq: Sequence) -> None:
        """Queue at the end."""
        self._queue.append(seq)
        self._count(seq)

    def push_front(self, seq: Sequence) -> None:
        """Queue before all others: it ran already."""
        self._queue.appendleft(seq)
        self._count(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a sequence. Raises ValueError when it does not wait."""
        self._queue.remove(seq)
        self.num_tokens -= self._num_tokens.pop(seq)
        self._passes.pop(seq, None)

    def take(
        self,
        admit: Callable[[Sequence], bool],
        rank: Callable[[Sequence], Rank] | None = None,
    ) -> Sequence | None:
        """Remove and return the first sequence that `admit` accepts, of those that may be asked.

        The order is by `rank`, the lowest first; without one, the order of arrival.
        """
        order = sorted(self._queue, key=rank) if rank else self._queue
        asked = list(islice(order, _LOOKAHEAD))
        for place, seq in enumerate(asked):
            if admit(seq):
                self.remove(seq)
                self._note_passes(asked[:place])
                return seq
            if seq.has_answered or self._passes.get(seq, 0) >= MAX_PASSES:
                break
        return None

    def _count(self, seq: Sequence) -> None:
        self._num_tokens[seq] = seq.num_uncomputed_tokens
        self.num_tokens += seq.num_uncomputed_tokens

    def _note_passes(self, passed: list[Sequence]) -> None:
        for seq in passed:
            self._passes[seq] = self._passes.get(seq, 0) + 1
