"""In-process double of the transport: streams between workers of one process, for tests."""

import queue
import threading
from collections.abc import Mapping

from common.kv_transfer.node_store import AHEAD
from common.kv_transfer.transport import KVSource, TransferError
from common.kv_transfer.wire import WireItem
from common.messages import WorkRequest


class InProcessTransport:
    """Connects to the given sources by name."""

    def __init__(self, sources: Mapping[str, KVSource]) -> None:
        self._sources = sources

    def open(self, worker: str, request: WorkRequest) -> "InProcessStream":
        """Run the prompt on the source of that name (KVTransport.open)."""
        if worker not in self._sources:
            raise TransferError(f"no prefill worker named {worker}")
        return InProcessStream(self._sources[worker], request)


class InProcessStream:
    """Runs the source's generator in a thread, as a Ray actor would."""

    def __init__(self, source: KVSource, request: WorkRequest) -> None:
        self._source = source
        self._request = request
        self._items: queue.SimpleQueue[WireItem | Exception | None] = queue.SimpleQueue()
        self._ahead = threading.Semaphore(AHEAD - 1)
        self._is_closed = False
        threading.Thread(target=self._run, daemon=True).start()

    def next(self, timeout_s: float) -> WireItem | None:
        """Return the next item, None at the end (KVStream.next)."""
        try:
            item = self._items.get(timeout=timeout_s)
        except queue.Empty:
            raise TransferError(f"no KV for {timeout_s} s") from None
        if isinstance(item, Exception):
            raise TransferError(str(item)) from item
        self._ahead.release()
        return item

    def close(self) -> None:
        """End the stream and tell the source (KVStream.close)."""
        self._is_closed = True
        self._items.put(None)  # for a reader that waits
        self._ahead.release()
        self._source.cancel_stream(self._request.request_id, self._request.attempt)

    def _run(self) -> None:
        try:
            for item in self._source.stream(self._request):
                self._items.put(item)
                # held back while AHEAD items are unread, unless nobody will read them
                if not self._is_closed:
                    self._ahead.acquire()
            self._items.put(None)
        except Exception as error:  # handed to the reader, as Ray does with a task's exception
            self._items.put(error)
