"""Faults of a KV stream between two workers, as wrappers of a KVSource; and gates for threads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.kv_transfer.transport import KVSource
from common.kv_transfer.wire import WireItem
from common.messages import WorkerLoad, WorkRequest
from tests.integration.support.in_process_workers import Worker
from tests.patience import WITHIN_S

Rewrite = Callable[[Iterator[WireItem]], Iterator[WireItem]]


class Gate:
    """Barrier for threads: `hold` blocks until `open`; others can wait until it is reached."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def hold(self) -> None:
        """Wait until the gate is open."""
        self._reached.set()
        assert self._opened.wait(WITHIN_S), "nobody opened the gate"

    def wait_reached(self) -> None:
        """Wait until a thread is at the gate."""
        assert self._reached.wait(WITHIN_S), "nobody came to the gate"

    @property
    def is_reached(self) -> bool:
        """Return True if a thread is, or was, at the gate."""
        return self._reached.is_set()

    def open(self) -> None:
        """Let all threads pass, now and later."""
        self._opened.set()


@contextmanager
def held_engine(worker: Worker) -> Iterator[WorkerLoad]:
    """Hold the worker's engine between two steps; yield its load there."""
    gate, loads = Gate(), list[WorkerLoad]()

    def hold() -> None:
        loads.append(worker._engine.load())
        gate.hold()

    worker._loop.post(hold)
    gate.wait_reached()
    try:
        yield loads[0]
    finally:
        gate.open()


def has_mail(worker: Worker, num: int = 1) -> bool:
    """Return True if at least `num` messages wait for an engine that is held."""
    return worker._loop._mailbox.qsize() >= num


class Meddled:
    """A KVSource whose streams go through `rewrite`."""

    def __init__(self, source: KVSource, rewrite: Rewrite) -> None:
        self._source = source
        self._rewrite = rewrite

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        """Stream the rewritten items, as KVSource.stream."""
        return self._rewrite(self._source.stream(request))

    def cancel_stream(self, request_id: str, attempt: int) -> None:
        """Cancel the wrapped stream, as KVSource.cancel_stream."""
        self._source.cancel_stream(request_id, attempt)


def meddle(rewrite: Rewrite) -> Callable[[KVSource], KVSource]:
    """Return the wrapper for Workers(wrap=...)."""
    return lambda source: Meddled(source, rewrite)


def hold_at(index: int, gate: Gate) -> Rewrite:
    """Make the item at `index` wait at the gate."""

    def rewrite(items: Iterator[WireItem]) -> Iterator[WireItem]:
        for at, item in enumerate(items):
            if at == index:
                gate.hold()
            yield item

    return rewrite


def die_at(index: int) -> Rewrite:
    """Break the stream at the item at `index`."""

    def rewrite(items: Iterator[WireItem]) -> Iterator[WireItem]:
        for at, item in enumerate(items):
            if at == index:
                raise OSError("the process is gone")
            yield item

    return rewrite


def end_at(index: int, *last_words: WireItem) -> Rewrite:
    """End the stream before the item at `index`, with `last_words`."""

    def rewrite(items: Iterator[WireItem]) -> Iterator[WireItem]:
        for at, item in enumerate(items):
            if at == index:
                break
            yield item
        yield from last_words

    return rewrite


def change_at(index: int, change: Callable[[WireItem], list[WireItem]]) -> Rewrite:
    """Replace the item at `index` by others."""

    def rewrite(items: Iterator[WireItem]) -> Iterator[WireItem]:
        for at, item in enumerate(items):
            yield from change(item) if at == index else [item]

    return rewrite


def flip_payload(item: WireItem) -> list[WireItem]:
    """Flip one bit of the KV."""
    header, payload = item
    assert payload is not None
    damaged = payload.copy()
    damaged[len(damaged) // 2] ^= 4
    return [(header, damaged)]


def flip_header(item: WireItem) -> list[WireItem]:
    """Flip one bit of the last header byte: of a token id, a checksum or a duration."""
    header, payload = item
    return [(header[:-1] + bytes([header[-1] ^ 1]), payload)]
