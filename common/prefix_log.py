"""Log of the prefixes that a worker's blocks hold, for routers: changes, or all of them.

1. The BlockPool notes each key that a block gets or loses, in the engine's thread.
2. After each step, each router's connection asks for the changes `since` the number that it has reached.
3. A connection that is new, or so far behind that the changes are forgotten, gets a snapshot instead.

Memory is bounded: the log keeps a limited number of changes, and a message carries at most MAX_DIGESTS.
"""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

DIGEST_BYTES = 8  # taken of a key's own digest: one wrong prediction in 2**64
MAX_DIGESTS = 2**16


@dataclass(frozen=True, slots=True)
class PrefixUpdate:
    """Digests added and removed between the states after `start` and after `end` changes.

    A snapshot replaces everything that the receiver had. Its further parts, if it has any, are updates from
    `end` to `end`.
    """

    start: int
    end: int
    is_snapshot: bool = False
    added: tuple[bytes, ...] = ()
    removed: tuple[bytes, ...] = ()


class PrefixLog:
    """Digests of a pool's keys, and their last changes. One thread writes, any thread reads."""

    def __init__(self, max_changes: int) -> None:
        self._lock = threading.Lock()
        self._held: set[bytes] = set()
        self._changes: deque[tuple[bytes, bool]] = deque(maxlen=min(max_changes, MAX_DIGESTS))
        self._end = 0

    def add(self, keys: Iterable[bytes]) -> None:
        """Note the keys that blocks got."""
        digests = [key[:DIGEST_BYTES] for key in keys]
        with self._lock:
            self._held.update(digests)
            self._changes.extend([(digest, True) for digest in digests])
            self._end += len(digests)

    def remove(self, key: bytes) -> None:
        """Note the key that a block lost."""
        digest = key[:DIGEST_BYTES]
        with self._lock:
            self._held.discard(digest)
            self._changes.append((digest, False))
            self._end += 1

    def since(self, reached: int | None) -> list[PrefixUpdate]:
        """Return the updates from the state after `reached` changes (None: no state) to now, in order."""
        if reached == self._end:
            return []
        with self._lock:
            num_missing = self._end - reached if reached is not None else -1
            if not 0 <= num_missing <= len(self._changes):
                return self._snapshot()
            return [self._delta(num_missing)]

    def _delta(self, num_missing: int) -> PrefixUpdate:
        skipped = len(self._changes) - num_missing
        # the last change of each digest counts
        last = dict(change for index, change in enumerate(self._changes) if index >= skipped)
        return PrefixUpdate(
            start=self._end - num_missing,
            end=self._end,
            added=tuple(digest for digest, is_added in last.items() if is_added),
            removed=tuple(digest for digest, is_added in last.items() if not is_added),
        )

    def _snapshot(self) -> list[PrefixUpdate]:
        held = tuple(self._held)
        parts = [held[at : at + MAX_DIGESTS] for at in range(0, len(held), MAX_DIGESTS)] or [()]
        return [
            PrefixUpdate(self._end, self._end, is_snapshot=index == 0, added=part)
            for index, part in enumerate(parts)
        ]
