"""A queue that is fair among tenants. Plain numbers; no sockets, no clocks."""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")
_QUANTUM_TOKENS = 512


@dataclass(slots=True)
class _Line(Generic[T]):
    """Items of one tenant, a heap of (priority, number, tokens, item)."""

    heap: list[tuple[int, int, int, T]] = field(default_factory=list)
    num_tokens: int = 0
    deficit: float = 0.0  # tokens that the tenant may still take in this round


class FairQueue(Generic[T]):
    """Deficit round robin (Shreedhar and Varghese 1995): tenants get tokens by their weights.

    Each tenant in turn gets a quantum and takes items while it lasts. The rest counts in its next
    round, but not beyond the end of its queue. Within a tenant the most urgent item goes first,
    then the oldest.
    """

    def __init__(self, weight: Callable[[str], float]) -> None:
        """Take `weight`, which returns a tenant's weight, above 0."""
        self._weight = weight
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()
        self._numbers = count()
        self.num_tokens = 0

    def __len__(self) -> int:
        return sum(len(line.heap) for line in self._lines.values())

    def push(self, tenant: str, item: T, num_tokens: int, priority: int) -> None:
        """Add an item of at least one token; the lowest priority number goes first."""
        line = self._lines.setdefault(tenant, _Line())
        heapq.heappush(line.heap, (priority, next(self._numbers), num_tokens, item))
        line.num_tokens += num_tokens
        self.num_tokens += num_tokens

    def pop(self) -> tuple[T, int] | None:
        """Remove and return the next item and its tokens; None when the queue is empty."""
        self._skip_rounds()
        while self._lines:
            tenant, line = next(iter(self._lines.items()))
            num_tokens, item = line.heap[0][2:]
            if line.deficit >= num_tokens:
                line.deficit -= num_tokens
                heapq.heappop(line.heap)
                self._forget(tenant, line, num_tokens)
                return item, num_tokens
            line.deficit += _QUANTUM_TOKENS * self._weight(tenant)
            self._lines.move_to_end(tenant)
        return None

    def remove(self, tenant: str, item: T) -> None:
        """Remove an item; an item that is not in the queue is ignored."""
        line = self._lines.get(tenant)
        entry = next((e for e in line.heap if e[3] is item), None) if line else None
        if line is not None and entry is not None:
            line.heap.remove(entry)
            heapq.heapify(line.heap)
            self._forget(tenant, line, entry[2])

    def tokens_before(self, tenant: str) -> int:
        """Return about how many tokens go before a new item of a tenant, with all weights equal."""
        own = self._lines.get(tenant)
        limit = own.num_tokens if own else 0
        return sum(
            min(line.num_tokens, max(limit, _QUANTUM_TOKENS)) for line in self._lines.values()
        )

    def _skip_rounds(self) -> None:
        """Give all tenants at once the quanta of the rounds in which none could take an item."""
        num_empty = (
            min((self._rounds_until(*entry) for entry in self._lines.items()), default=0) - 1
        )
        if num_empty > 0:
            for tenant, line in self._lines.items():
                line.deficit += num_empty * _QUANTUM_TOKENS * self._weight(tenant)

    def _rounds_until(self, tenant: str, line: _Line[T]) -> int:
        missing = line.heap[0][2] - line.deficit
        return math.ceil(missing / (_QUANTUM_TOKENS * self._weight(tenant)))

    def _forget(self, tenant: str, line: _Line[T], num_tokens: int) -> None:
        line.num_tokens -= num_tokens
        self.num_tokens -= num_tokens
        if not line.heap:
            del self._lines[tenant]
