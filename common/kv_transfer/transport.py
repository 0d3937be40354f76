"""Interface over which decode pulls KV from prefill.

1. Decode side: `KVTransport.open` asks a prefill worker to run a prompt and returns a `KVStream`. A pull
   thread calls `next` until it returns None; any thread may call `close` before.
2. Prefill side: a `KVSource` answers with an iterator of items, and learns of a closed stream by
   `cancel_stream`.
3. The caller owns the yielded items: if decode dies, the transport frees them; if prefill dies, they stay
   readable.
4. A transport resumes the source only when fewer than `AHEAD` (node_store.py) of its items are unread. That
   bounds the memory that they take on their way.
"""

from collections.abc import Iterator
from typing import Protocol

from common.kv_transfer.wire import WireItem
from common.messages import WorkRequest


class TransferError(RuntimeError):
    """The other side is gone, silent for too long, or broken: the KV must come from elsewhere."""


class KVSource(Protocol):
    """A prefill worker as the transport sees it."""

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        """Run the prompt; yield its KV chunk by chunk, token 1 as soon as it is known."""

    def cancel_stream(self, request_id: str, attempt: int) -> None:
        """Stop that run of a prompt, even if its stream has not begun yet. Unknown runs are remembered."""


class KVStream(Protocol):
    """Items of one prompt as they arrive."""

    def next(self, timeout_s: float) -> WireItem | None:
        """Return the next item, None at the end. Raises TransferError, also after `timeout_s`.

        A `close` in another thread ends the wait within a second.
        """

    def close(self) -> None:
        """Give up the rest and tell prefill. Safe to repeat, never blocks, never raises."""


class KVTransport(Protocol):
    """Opens streams to prefill workers by name."""

    def open(self, worker: str, request: WorkRequest) -> KVStream:
        """Ask `worker` to run the prompt. Raises TransferError."""
