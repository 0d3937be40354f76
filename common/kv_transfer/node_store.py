"""Memory of a node that KV passes through on its way from prefill to decode.

A full object store writes to disk silently, and milliseconds become hundreds of them. So the KV on its way
is capped on each node: a share of the store, divided evenly among the workers there, since both ends of a
transfer hold memory on their own node. Each end keeps to its part by itself:
- decode has at most that much pulled and not inserted (decode_worker/pull_credit.py),
- prefill yields no more than that ahead of its readers (prefill_worker/send_credit.py).
"""

from dataclasses import dataclass
from typing import Protocol

# Number of items that a transport takes from a source ahead of the reader.
AHEAD = 2


class NodeStore(Protocol):
    """A node's store as one of its workers sees it. Both methods are quick and safe in any thread."""

    def share_bytes(self) -> int:
        """Return the bytes that this worker's KV may take now; it changes as workers come and go."""

    def spilled_bytes(self) -> int:
        """Return the bytes that the store has written to disk since the node started."""


@dataclass(frozen=True, slots=True)
class FixedStore:
    """A store that never changes: for transports without one, and for tests."""

    num_bytes: int

    def share_bytes(self) -> int:
        """Return the fixed size."""
        return self.num_bytes

    def spilled_bytes(self) -> int:
        """Return 0: it writes nothing to disk."""
        return 0


UNLIMITED = FixedStore(2**62)
