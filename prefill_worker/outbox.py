"""KV on its way out of a prefill worker.

1. `stream` (a transport thread) opens an outbox and posts the prompt to the engine.
2. After each step the engine copies the finished chunk out of its blocks into a host buffer (copy_out.py),
   which is put here; token 1 goes in before the last chunk.
3. After the last copy-out the engine gives the prompt's blocks back: it never waits for decode.
4. The transport thread yields items until `finish`, once the node's object store has room for the stream
   (send_credit.py), each when few enough are unread; what it yields belongs to the caller.
5. A stream that is given up (cancel, or the caller is gone) discards its outbox: what waits there is gone at
   once, and the engine drops the prompt within one step.
So where decode is slow, host buffers wait here, never blocks. They are bounded by the decode side: it
reserves its blocks before it opens a stream, so all outboxes together hold at most the KV memory of the
decode workers that pull from here, and of each at most `transfer.max_concurrent_pulls` prompts.
"""

import contextlib
import queue
from collections.abc import Callable, Iterator

from common.kv_transfer.wire import WireItem

# A prompt may wait long for its turn; the reader's own deadline is the real one. This one only makes sure
# that a transport thread whose engine died does not live for ever.
_STUCK_S = 600.0


class KVOutbox:
    """The items of one prompt, in order. `items` for one reader; all else for the engine and its copier."""

    def __init__(self, on_discard: Callable[[], None] = lambda: None) -> None:
        """`on_discard` is called in whatever thread discards."""
        self._items: queue.SimpleQueue[WireItem | None] = queue.SimpleQueue()
        self._on_discard = on_discard
        self.is_discarded = False

    def put(self, item: WireItem) -> None:
        """Add an item."""
        self._items.put(item)

    def finish(self) -> None:
        """No more items will come."""
        self._items.put(None)

    def discard(self) -> None:
        """Nobody reads any more: drop what waits."""
        self.is_discarded = True
        while not self._items.empty():
            with contextlib.suppress(queue.Empty):  # the reader may be quicker
                self._items.get_nowait()
        self._items.put(None)
        self._on_discard()

    def items(self) -> Iterator[WireItem]:
        """The items until `finish` or `discard`. Raises TimeoutError when the engine is stuck."""
        while True:
            try:
                item = self._items.get(timeout=_STUCK_S)
            except queue.Empty:
                raise TimeoutError("the prefill engine made no progress") from None
            if item is None or self.is_discarded:
                return
            yield item
