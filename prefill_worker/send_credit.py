"""The account of KV in a node's object store: yielded by one prefill worker, not released by readers.

1. A transport resumes a stream when fewer than `AHEAD` of its items are unread. Items that the reader still
   holds are charged to the reader (decode_worker/pull_credit.py). So of one stream at most `AHEAD` + 1 items
   more are in the store.
2. `SendCredit.pass_on` charges a stream for so many before its first item of KV; it waits while others hold
   too much. The stream gives all of it back at its end and never takes more.
3. Items are cut so small that two streams always fit. A stream that finds the account empty goes in any case.

No deadlock: a stream that holds room waits only for its engine and its reader. The engine waits for no
stream, and the reader's engine needs no credit to insert.
"""

import threading
from collections.abc import Iterator

from common.kv_transfer.layout import KVLayout
from common.kv_transfer.node_store import AHEAD, NodeStore
from common.kv_transfer.wire import WireItem
from common.ledger import StreamUse
from common.messages import WorkRequest
from prefill_worker.outbox import KVOutbox

_STUCK_S = 600.0
_WINDOW = AHEAD + 1


class SendCredit:
    """Owns the account. Every transport thread has a stream of its own."""

    def __init__(self, store: NodeStore, layout: KVLayout, max_batch_tokens: int) -> None:
        self._store = store
        self._layout = layout
        self._max_batch_tokens = max_batch_tokens
        self._changed = threading.Condition()
        self.taken_bytes = 0
        self._num_streams = 0

    def max_item_tokens(self, request: WorkRequest) -> int:
        """Return the longest piece of KV for a stream that starts now, in tokens.

        The least of three: decode's limit, a step's size, and an even part of the store.
        """
        limit = min(request.max_item_tokens or self._max_batch_tokens, self._max_batch_tokens)
        room = self._store.share_bytes() // (2 * _WINDOW) // self._layout.num_bytes(1)
        return max(min(limit, room), 1)

    def cost(self, request: WorkRequest) -> int:
        """Return the bytes that the stream of a request, with `max_item_tokens` set, may hold at once."""
        num_tokens = request.num_given_tokens - request.num_held_tokens
        window = _WINDOW * (request.max_item_tokens or self._max_batch_tokens)
        whole = self._layout.num_bytes(num_tokens) + self._layout.state_bytes
        return min(whole, self._layout.num_bytes(window))

    def pass_on(self, outbox: KVOutbox, cost: int) -> Iterator[WireItem]:
        """Yield the outbox's items; before the first one of KV, wait for room for `cost` bytes.

        Ends early when the outbox is discarded. Raises TimeoutError when no room comes free.
        """
        taken = 0
        self._count(1)
        try:
            for item in outbox.items():
                if item[1] is not None and not taken:
                    if not self._take(cost, outbox):
                        return
                    taken = cost
                yield item
        finally:
            self._give(taken)
            self._count(-1)

    def stream_use(self) -> StreamUse:
        """Return the streams that are open, and what they took. For any thread."""
        with self._changed:
            return StreamUse(self._num_streams, self.taken_bytes)

    def look_again(self) -> None:
        """Wake the streams that wait, since an outbox may have been discarded."""
        with self._changed:
            self._changed.notify_all()

    def _take(self, num_bytes: int, outbox: KVOutbox) -> bool:
        """Take room as soon as there is some; return False if the outbox is discarded before."""

        def may_go() -> bool:
            wanted = self.taken_bytes + num_bytes
            has_room = not self.taken_bytes or wanted <= self._store.share_bytes()
            return has_room or outbox.is_discarded

        with self._changed:
            if not self._changed.wait_for(may_go, _STUCK_S):
                raise TimeoutError("no decode worker takes KV out of this node's object store")
            if outbox.is_discarded:
                return False
            self.taken_bytes += num_bytes
            return True

    def _count(self, change: int) -> None:
        with self._changed:
            self._num_streams += change

    def _give(self, num_bytes: int) -> None:
        with self._changed:
            self.taken_bytes -= num_bytes
            self._changed.notify_all()
