"""The seam over which decode pulls KV from prefill.

Decode side: `KVTransport.open` asks a prefill worker to run a prompt and returns a `KVStream`; a pull
thread calls `next` until it returns None; whoever is done early calls `close`, from any thread.
Prefill side: a `KVSource` answers with an iterator of items, and learns of a closed stream by
`cancel_stream`. The caller owns what was yielded: if decode dies the transport frees it, if prefill dies
what was yielded stays readable. A transport resumes the source only when fewer than `AHEAD`
(node_store.py) of its items are unread, which is what bounds the memory that they take on their way.
"""

from collections.abc import Iterator
from typing import Protocol

from common.kv_transfer.wire import WireItem
from common.messages import WorkRequest


class TransferError(RuntimeError):
    """The other side is gone, silent for too long, or broken; the KV has to come from elsewhere."""


class KVSource(Protocol):
    """What a prefill worker offers."""

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        """Run the prompt; yield its KV chunk by chunk, token 1 as soon as it is known."""

    def cancel_stream(self, request_id: str, attempt: int) -> None:
        """Stop that run, even if its stream has not begun yet. Unknown ones are remembered."""


class KVStream(Protocol):
    """One prompt's items as they arrive."""

    def next(self, timeout_s: float) -> WireItem | None:
        """The next item, None at the end. Raises TransferError, also after `timeout_s`.

        A `close` in another thread ends the wait within a second.
        """

    def close(self) -> None:
        """Give the rest up and tell prefill. Safe to repeat, never blocks, never raises."""


class KVTransport(Protocol):
    """Opens streams to prefill workers by name."""

    def open(self, worker: str, request: WorkRequest) -> KVStream:
        """Ask `worker` to run the prompt. Raises TransferError."""
