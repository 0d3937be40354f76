"""KV on its way out of a prefill worker.

1. `PrefillSource.stream` (a transport thread) makes an outbox and posts the prompt to the engine.
2. After each step the engine copies the finished chunk out of its blocks into a host buffer (copy_out.py) and
   puts that here; token 1 goes in before the last chunk.
3. After the last copy the engine releases the prompt's blocks: it never waits for decode.
4. The transport thread yields items until `finish`, once the object store has room (send_credit.py), each
   when few enough are unread. A yielded item belongs to the caller.
5. A stream that ends early (cancel, or the caller is gone) discards its outbox: waiting items are dropped at
   once, and the engine drops the prompt within one step.

So where decode is slow, host buffers wait here, never blocks. The decode side bounds them: it reserves its
blocks before it opens a stream. All outboxes together hold at most the KV memory of the decode workers that
pull from here, and of each at most `transfer.max_concurrent_pulls` prompts.
"""

import contextlib
import queue
from collections.abc import Callable, Iterator

from common.kv_transfer.wire import WireItem

# A prompt may wait long for its turn; the reader's own deadline is the real one. This limit only keeps a
# transport thread from living for ever when its engine died.
_STUCK_S = 600.0


class KVOutbox:
    """Items of one prompt, in order. `items` is for one reader, all else for the engine and its copier."""

    def __init__(self, on_discard: Callable[[], None] = lambda: None) -> None:
        """Call `on_discard` when the outbox is discarded, in the thread that does it."""
        self._items: queue.SimpleQueue[WireItem | None] = queue.SimpleQueue()
        self._on_discard = on_discard
        self.is_discarded = False

    def put(self, item: WireItem) -> None:
        """Add an item."""
        self._items.put(item)

    def finish(self) -> None:
        """End the items."""
        self._items.put(None)

    def discard(self) -> None:
        """Drop the waiting items, since nobody reads them any more."""
        self.is_discarded = True
        while not self._items.empty():
            with contextlib.suppress(queue.Empty):  # the reader may be quicker
                self._items.get_nowait()
        self._items.put(None)
        self._on_discard()

    def items(self) -> Iterator[WireItem]:
        """Yield the items until `finish` or `discard`. Raises TimeoutError when the engine is stuck."""
        while True:
            try:
                item = self._items.get(timeout=_STUCK_S)
            except queue.Empty:
                raise TimeoutError("the prefill engine made no progress") from None
            if item is None or self.is_discarded:
                return
            yield item
