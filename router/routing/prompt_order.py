"""Order in which waiting prompts run, as the router counts it. Plain numbers; no clocks.

Prefill workers put prompts into this order (prefill_worker/order.py), and so does the queue in the
router. Decode workers run prompts by priority, then as they come (decode_worker/admission.py).
"""

import math
from bisect import bisect_left, bisect_right
from itertools import count
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
# `due_s` of a prompt that no later one of its priority overtakes
FIRST_COME = -math.inf


class Rank(NamedTuple):
    """Place of a prompt; the lowest goes first, of equal ones the oldest.

    `due_s` is the time of arrival plus the seconds that the prompt takes. That is shortest first
    with ageing: both prompts of a pair age alike, so that their order never changes.
    """

    priority: int
    due_s: float = 0.0


class Entrant(NamedTuple):
    """A prompt that is to enter an order. It ages from the moment on at which it does."""

    priority: int
    run_s: float  # seconds that it takes alone

    def rank(self, now_s: float) -> Rank:
        """Return its rank if it enters now."""
        return Rank(self.priority, now_s + self.run_s)


class PromptTotals(NamedTuple):
    """Numbers of prompts and of their tokens."""

    num_prompts: int
    num_tokens: int


class PromptOrder(Generic[T]):
    """Prompts in the order of their ranks.

    Changes cost a binary search and a move of memory. `ahead` adds up the prompts ahead, at most
    20 ns each, and is free for one that goes last.
    """

    def __init__(self) -> None:
        self._keys: list[tuple[Rank, float]] = []  # with the number of arrival
        self._tokens: list[int] = []
        self._items: list[T] = []
        self._numbers = count()
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def first(self) -> tuple[T, int]:
        """The first prompt and its tokens. Raises IndexError without one."""
        return self._items[0], self._tokens[0]

    def add(self, rank: Rank, num_tokens: int, item: T) -> None:
        """Add a prompt, behind all of its rank."""
        key = (rank, next(self._numbers))
        at = bisect_left(self._keys, key)
        self._keys.insert(at, key)
        self._tokens.insert(at, num_tokens)
        self._items.insert(at, item)
        self.num_tokens += num_tokens

    def pop_first(self) -> None:
        """Remove the first prompt. Raises IndexError without one."""
        self._remove_at(0)

    def remove(self, rank: Rank, item: T) -> bool:
        """Remove a prompt; return False if it is not there."""
        for at in range(bisect_left(self._keys, (rank, -1)), self._end(rank)):
            if self._items[at] is item:
                self._remove_at(at)
                return True
        return False

    def ahead(self, rank: Rank) -> PromptTotals:
        """Return the prompts that go before a new one of this rank."""
        at = self._end(rank)
        num_tokens = self.num_tokens if at == len(self) else sum(self._tokens[:at])
        return PromptTotals(at, num_tokens)

    def tokens_behind(self, rank: Rank) -> list[int]:
        """Return the tokens of each prompt that a new one of this rank overtakes."""
        return self._tokens[self._end(rank) :]

    def _end(self, rank: Rank) -> int:
        return bisect_right(self._keys, (rank, math.inf))

    def _remove_at(self, at: int) -> None:
        self.num_tokens -= self._tokens.pop(at)
        del self._keys[at], self._items[at]
