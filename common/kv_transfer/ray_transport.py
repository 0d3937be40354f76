"""KV as Ray objects: one streaming actor generator per prompt, one object per chunk.

The decode worker is the caller, so it owns every yielded object: when it dies Ray frees them, and when
the prefill worker dies the chunks already yielded stay readable (ADR 0002). Every wait has a
timeout, because after a node's death Ray alone would hang for 30 s.
"""

import contextlib
import gc
import time
from typing import NamedTuple

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError

from common.kv_transfer.node_store import AHEAD
from common.kv_transfer.transport import TransferError
from common.kv_transfer.wire import WireItem
from common.messages import WorkRequest

_CLOSED_WITHIN_S = 1.0


class _Found(NamedTuple):
    handle: ActorHandle
    end: "ray.ObjectRef[None]"  # ready once the process has ended


class RayKVTransport:
    """Opens streams to prefill workers, which are named actors of one namespace.

    Their class must have the methods `stream_kv(WorkRequest)`, a generator, `cancel_kv(request_id,
    attempt)`, and `wait_stopped()`, which ends with the process.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._workers: dict[str, _Found] = {}

    def open(self, worker: str, request: WorkRequest) -> "RayKVStream":
        """Start the actor's generator for the prompt (KVTransport.open). Raises TransferError."""
        try:
            handle = self._find(worker)
            # Ray pauses the generator while that many of its objects are unread. When the stream is dropped
            # half-read, Ray deletes them and lets the generator run on without a reader.
            refs = handle.stream_kv.options(
                num_returns="streaming", _generator_backpressure_num_objects=AHEAD
            ).remote(request)
        except (RayError, ValueError) as error:
            self._workers.pop(worker, None)
            raise TransferError(f"prefill worker {worker} is not reachable: {error}") from error
        return RayKVStream(handle, refs, request)

    def _find(self, worker: str) -> ActorHandle:
        """Return the handle of the process that has this name now: one that died has a successor."""
        found = self._workers.get(worker)
        if found is None or ray.wait([found.end], timeout=0)[0]:
            handle = ray.get_actor(worker, self._namespace)
            found = self._workers[worker] = _Found(handle, handle.wait_stopped.remote())
        return found.handle


class RayKVStream:
    """Reads one generator. One thread calls `next`, any thread `close`."""

    def __init__(
        self,
        handle: ActorHandle,
        refs: "ray.ObjectRefGenerator",
        request: WorkRequest,
    ) -> None:
        self._handle = handle
        self._refs = refs
        self._request = request
        self._closed = False

    def next(self, timeout_s: float) -> WireItem | None:
        """Return the next item, None at the end (KVStream.next). Raises TransferError."""
        deadline = time.monotonic() + timeout_s
        try:
            while not ray.wait([self._refs], timeout=_slice_s(deadline))[0]:
                if self._closed:
                    return None
                if time.monotonic() >= deadline:
                    raise TransferError(f"no KV for {timeout_s} s")
            return self._get(next(self._refs), deadline)
        except StopIteration:
            return None
        except GetTimeoutError as error:
            raise TransferError(f"a KV object could not be read in {timeout_s} s") from error
        except RayError as error:
            message = f"prefill worker failed: {type(error).__name__}"
            raise TransferError(message) from _let_go(error)

    def close(self) -> None:
        """End the stream and tell prefill (KVStream.close)."""
        if self._closed:
            return
        self._closed = True
        # nobody waits for the answer; if the actor is dead there is nothing left to cancel
        with contextlib.suppress(RayError, ValueError):
            self._handle.cancel_kv.remote(self._request.request_id, self._request.attempt)

    def _get(self, ref: "ray.ObjectRef[WireItem]", deadline: float) -> WireItem | None:
        """Return the item of `ref`; None when the stream is closed meanwhile. Raises GetTimeoutError."""
        # the generator's own reference has the error of a task that failed, and is ready
        while not self._closed or ref == self._refs.completed():
            try:
                item: WireItem = ray.get(ref, timeout=_slice_s(deadline))
                return item
            except GetTimeoutError:
                if time.monotonic() >= deadline:
                    raise
        return None


def _let_go(error: RayError) -> RayError:
    """Return an error that holds no object; objects stay in the store while a reference to them lives.

    The frame of `ray.get` in its traceback has both the error and the reference, which is a cycle. Ray's
    generator has caught such an error before, with a reference to what the dead worker sent last. Nothing
    but a collection finds that cycle. It takes ms: what a worker's start has made is left out (`gc.freeze`).
    """
    error = error.with_traceback(None)
    gc.collect()
    return error


def _slice_s(deadline: float) -> float:
    """Return the seconds to wait before the next look for a close of the stream."""
    return min(max(deadline - time.monotonic(), 0.1), _CLOSED_WITHIN_S)
