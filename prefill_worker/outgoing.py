"""What one prefill worker may have in its node's object store: yielded, and not let go by the readers.

1. A stream takes an item's bytes before it yields the item, and waits while others hold too many.
2. A transport resumes a stream when fewer than `AHEAD` of its items are unread; a reader lets an item go
   before it asks for the next. So at the resumption after item n, item n - AHEAD is gone: its bytes come
   back.
3. A stream that ends gives all of its bytes back.
No circle: readers wait for nothing but their own engine's inserts, which need no credit.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator

from common.kv_transfer.node_store import AHEAD, NodeStore
from common.kv_transfer.wire import WireItem

_STUCK_S = 600.0


class Outgoing:
    """Owns the account; every transport thread has a stream of its own."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        self.taken_bytes = 0

    def pass_on(self, items: Iterable[WireItem]) -> Iterator[WireItem]:
        """The items, each when there is room for it. Raises TimeoutError when none comes free."""
        held: deque[int] = deque()
        try:
            for item in items:
                num_bytes = 0 if item[1] is None else item[1].nbytes
                if num_bytes:
                    self._take(num_bytes)
                held.append(num_bytes)
                yield item
                if len(held) > AHEAD:
                    self._give(held.popleft())
        finally:
            self._give(sum(held))

    def _take(self, num_bytes: int) -> None:
        def has_room() -> bool:
            # one may always go, where not even an item fits the share
            wanted = self.taken_bytes + num_bytes
            return not self.taken_bytes or wanted <= self._store.share_bytes()

        with self._changed:
            if not self._changed.wait_for(has_room, _STUCK_S):
                raise TimeoutError("no decode worker takes KV out of this node's object store")
            self.taken_bytes += num_bytes

    def _give(self, num_bytes: int) -> None:
        with self._changed:
            self.taken_bytes -= num_bytes
            self._changed.notify_all()
