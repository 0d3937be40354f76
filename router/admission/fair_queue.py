"""A queue that is fair among tenants. Plain numbers; no sockets, no clocks."""

import math
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from router.routing.prompt_order import PromptOrder, PromptTotals, Rank

T = TypeVar("T")
_QUANTUM_TOKENS = 512


@dataclass(slots=True)
class _Line(Generic[T]):
    """Items of one tenant."""

    items: PromptOrder[T] = field(default_factory=PromptOrder)
    deficit: float = 0.0  # tokens that the tenant may still take in this round

    @property
    def missing(self) -> float:
        """Tokens that the tenant lacks for its first item."""
        return self.items.first[1] - self.deficit


class FairQueue(Generic[T]):
    """Deficit round robin (Shreedhar and Varghese 1995): tenants get tokens by their weights.

    Each tenant in turn gets a quantum and takes items while it lasts. The rest counts in its next
    round, but not beyond the end of its queue. Within a tenant the item of the lowest rank goes
    first. A tenant whose first item may not go yet keeps its turn, and lets others pass.
    """

    def __init__(self, weight: Callable[[str], float]) -> None:
        """Take `weight`, which returns a tenant's weight, above 0."""
        self._weight = weight
        self._lines: OrderedDict[str, _Line[T]] = OrderedDict()
        self.num_tokens = 0

    def __len__(self) -> int:
        return sum(len(line.items) for line in self._lines.values())

    def push(self, tenant: str, item: T, num_tokens: int, rank: Rank) -> None:
        """Add an item of at least one token."""
        self._lines.setdefault(tenant, _Line()).items.add(rank, num_tokens, item)
        self.num_tokens += num_tokens

    def pop(self, may_go: Callable[[T], bool] = lambda _: True) -> tuple[T, int] | None:
        """Remove and return the next item that may go, and its tokens; None without one.

        Only the first item of each tenant is asked for.
        """
        going = {name for name, line in self._lines.items() if may_go(line.items.first[0])}
        if not going:
            return None
        self._skip_rounds(going)
        while True:
            tenant, line = next(iter(self._lines.items()))
            if line.missing <= 0 and tenant in going:
                item, num_tokens = line.items.first
                line.deficit -= num_tokens
                line.items.pop_first()
                self._forget(tenant, line, num_tokens)
                return item, num_tokens
            if line.missing > 0:
                line.deficit += _QUANTUM_TOKENS * self._weight(tenant)
            self._lines.move_to_end(tenant)

    def remove(self, tenant: str, item: T, num_tokens: int, rank: Rank) -> None:
        """Remove an item that was pushed so; an item that is not in the queue is ignored."""
        line = self._lines.get(tenant)
        if line is not None and line.items.remove(rank, item):
            self._forget(tenant, line, num_tokens)

    def ahead(self, tenant: str, rank: Rank) -> PromptTotals:
        """Return about what goes before a new item of a tenant.

        That is all of its own items of lower ranks. Each other tenant takes turns with them.
        """
        own = self._lines.get(tenant)
        num_items, num_tokens = own.items.ahead(rank) if own else PromptTotals(0, 0)
        # tokens that a tenant of weight 1 gets meanwhile, in one round at least
        turn = max(num_tokens / self._weight(tenant), _QUANTUM_TOKENS)
        for name, line in self._lines.items():
            if line is not own:
                part = min(turn * self._weight(name) / line.items.num_tokens, 1.0)
                num_items += math.ceil(part * len(line.items))
                num_tokens += round(part * line.items.num_tokens)
        return PromptTotals(num_items, num_tokens)

    def _skip_rounds(self, going: Collection[str]) -> None:
        """Give all tenants at once the quanta of the rounds in which none could take an item."""
        num_empty = min(self._rounds_until(name, self._lines[name]) for name in going) - 1
        if num_empty > 0:
            for tenant, line in self._lines.items():
                quanta = num_empty * _QUANTUM_TOKENS * self._weight(tenant)
                # one that waits for leave to go saves up no more than its first item takes
                line.deficit += quanta if tenant in going else min(quanta, max(line.missing, 0.0))

    def _rounds_until(self, tenant: str, line: _Line[T]) -> int:
        return math.ceil(line.missing / (_QUANTUM_TOKENS * self._weight(tenant)))

    def _forget(self, tenant: str, line: _Line[T], num_tokens: int) -> None:
        self.num_tokens -= num_tokens
        if not line.items:
            del self._lines[tenant]
