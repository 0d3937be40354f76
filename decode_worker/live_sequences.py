"""The requests that a decode worker has taken and not ended, and the next of their deadlines."""

from collections.abc import Iterator
from math import inf

from common.engine.sequence import Sequence


class LiveSequences:
    """Owns the live sequences by request id. A step looks at all of them only when a deadline passed."""

    def __init__(self) -> None:
        self._by_id: dict[str, Sequence] = {}
        self._next_deadline_s = inf  # no live sequence has a sooner one

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(tuple(self._by_id.values()))

    def get(self, request_id: str) -> Sequence | None:
        """Return the live sequence of a request, if there is one."""
        return self._by_id.get(request_id)

    def add(self, seq: Sequence) -> None:
        """Take a sequence in; its request has no other one."""
        self._by_id[seq.request_id] = seq
        self._next_deadline_s = min(self._next_deadline_s, seq.deadline_s)

    def remove(self, seq: Sequence) -> None:
        """Forget a live sequence."""
        del self._by_id[seq.request_id]

    def expired(self, now_s: float) -> list[Sequence]:
        """Return those whose deadline has passed; `now_s` is on the clock of `Sequence.deadline_s`."""
        if now_s <= self._next_deadline_s:
            return []
        self._next_deadline_s = min((seq.deadline_s for seq in self), default=inf)
        return [seq for seq in self if seq.is_expired(now_s)]
