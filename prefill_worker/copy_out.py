"""Copies of finished chunks, out of their blocks into outboxes.

1. `send` starts the copy behind the step that computed the chunk; the blocks may be released at once.
2. From a CUDA device the copy runs on a stream of its own. A thread waits for it, makes checksum and header
   and puts the item into the outbox, while the engine runs the next step.
3. In host memory there is nothing to overlap with, since the copy takes the engine's own core: all of it
   happens in `send`.
4. `finish` ends an outbox behind everything that was sent there.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from common.engine.build import Engine
from common.engine.memory.kv_cache import kv_layout
from common.engine.sequence import Sequence
from common.kv_transfer.state_pieces import make_state_piece
from common.kv_transfer.wire import Payload, make_chunk
from common.telemetry.logs import get_logger
from prefill_worker.outbox import KVOutbox

_log = get_logger()


class CopyOut:
    """Copies chunks out, called in the engine's thread. Items of one outbox keep their order."""

    def __init__(self, engine: Engine) -> None:
        self._cache = engine.cache
        self._costs = engine.costs
        self._states = engine.states
        self._layout = kv_layout(engine.spec)
        overlaps = engine.cache.reads_overlap
        self._thread = ThreadPoolExecutor(1, "copy-out") if overlaps else None

    def send(self, seq: Sequence, outbox: KVOutbox, start: int, end: int) -> int:
        """Copy the KV of positions [start, end) into the outbox; return its size in bytes."""
        start_s = time.monotonic()
        wait = self._cache.start_read(seq.block_table, start, end)
        num_bytes = self._layout.num_bytes(end - start)
        key = seq.request_id, seq.request.attempt
        arrival_s = seq.timeline.arrival_s

        def put() -> None:
            tensor = wait()
            payload: Payload = tensor.view(torch.uint8).numpy().reshape(-1).view(np.uint8)
            copied = start_s - arrival_s, time.monotonic() - start_s
            outbox.put(make_chunk(*key, self._layout, start, payload, copied))

        self._do(put, outbox)
        if self._thread is None:
            self._costs.note_copy_out(num_bytes, time.monotonic() - start_s)
        return num_bytes

    def send_state(self, seq: Sequence, outbox: KVOutbox, max_tokens: int) -> int:
        """Copy the sequence's state into the outbox, behind its KV; return its size in bytes.

        Pieces are no larger than the KV of `max_tokens`. A model without state has nothing to send.
        """
        if self._states is None or seq.state_slot is None:
            return 0
        position, start_s = seq.num_computed_tokens, time.monotonic()
        state: Payload = self._states.read(seq.state_slot, position).numpy()
        copied = start_s - seq.timeline.arrival_s, time.monotonic() - start_s
        key, size = (seq.request_id, seq.request.attempt), self._layout.num_bytes(max_tokens)

        def put() -> None:
            for start in range(0, len(state), size):
                piece = state[start : start + size]
                outbox.put(make_state_piece(*key, self._layout, position, start, piece, copied))

        self._do(put, outbox)
        return len(state)

    def finish(self, outbox: KVOutbox) -> None:
        """End the outbox, behind all that was sent there."""
        self._do(outbox.finish, outbox)

    def close(self) -> None:
        """Stop the thread, without waiting for copies that run."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _do(self, task: Callable[[], None], outbox: KVOutbox) -> None:
        if self._thread is None:
            task()
        else:
            self._thread.submit(_guarded, task, outbox)


def _guarded(task: Callable[[], None], outbox: KVOutbox) -> None:
    try:
        task()
    except Exception as error:  # a thread's edge: the reader sees a stream that ends early
        _log.error("copy_out_failed", exc_info=error)
        outbox.discard()
