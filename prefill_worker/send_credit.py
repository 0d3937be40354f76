"""What one prefill worker may have in its node's object store: yielded, and not let go by the readers.

1. A transport resumes a stream when fewer than `AHEAD` of its items are unread; what its reader
   holds on to is charged there (decode_worker/pull_credit.py). So of one stream `AHEAD` + 1 items more are
   in the store at most.
2. A stream is charged for so many before its first item of KV, and waits while others hold too much. It
   gives all of it back at its end and never takes more, so none waits for room while it holds some.
3. Items are cut so small that two streams always fit; one that finds the account empty goes in any case.
No circle: who holds room waits for its engine and its reader only; the engine waits for no stream, and the
reader for its own engine's inserts, which need no credit.
"""

import threading
from collections.abc import Iterator

from common.kv_transfer.layout import KVLayout
from common.kv_transfer.node_store import AHEAD, NodeStore
from common.kv_transfer.wire import WireItem
from common.messages import WorkRequest
from prefill_worker.outbox import KVOutbox

_STUCK_S = 600.0
_WINDOW = AHEAD + 1


class SendCredit:
    """Owns the account; every transport thread has a stream of its own."""

    def __init__(self, store: NodeStore, layout: KVLayout, max_batch_tokens: int) -> None:
        self._store = store
        self._layout = layout
        self._max_batch_tokens = max_batch_tokens
        self._changed = threading.Condition()
        self.taken_bytes = 0

    def max_item_tokens(self, request: WorkRequest) -> int:
        """The longest piece of KV for a stream that starts now: decode's limit, a step's, the store's."""
        limit = min(request.max_item_tokens or self._max_batch_tokens, self._max_batch_tokens)
        room = self._store.share_bytes() // (2 * _WINDOW) // self._layout.num_bytes(1)
        return max(min(limit, room), 1)

    def cost(self, request: WorkRequest) -> int:
        """Bytes that the stream of a request whose `max_item_tokens` are set may hold at once."""
        num_tokens = len(request.prompt_token_ids) - request.num_held_tokens
        window = _WINDOW * (request.max_item_tokens or self._max_batch_tokens)
        return self._layout.num_bytes(min(num_tokens, window))

    def pass_on(self, outbox: KVOutbox, cost: int) -> Iterator[WireItem]:
        """The items, from the first one of KV on when there is room for `cost` bytes.

        Ends early when the outbox is discarded. Raises TimeoutError when no room comes free.
        """
        taken = 0
        try:
            for item in outbox.items():
                if item[1] is not None and not taken:
                    if not self._take(cost, outbox):
                        return
                    taken = cost
                yield item
        finally:
            self._give(taken)

    def look_again(self) -> None:
        """Have streams that wait notice that their outbox was discarded."""
        with self._changed:
            self._changed.notify_all()

    def _take(self, num_bytes: int, outbox: KVOutbox) -> bool:
        """Whether there is room before the outbox is discarded."""

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

    def _give(self, num_bytes: int) -> None:
        with self._changed:
            self.taken_bytes -= num_bytes
            self._changed.notify_all()
