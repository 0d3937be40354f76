import threading

import pytest

from common.kv_transfer.wire import WireItem
from prefill_worker import outbox
from prefill_worker.outbox import KVOutbox
from tests.patience import WITHIN_S

ITEMS: list[WireItem] = [(b"one", None), (b"two", None), (b"three", None)]


def test_items_come_out_in_order_until_the_end() -> None:
    box = KVOutbox()
    for item in ITEMS:
        box.put(item)
    box.finish()
    assert list(box.items()) == ITEMS


def test_what_comes_after_the_end_is_not_read() -> None:
    box = KVOutbox()
    box.finish()
    box.put(ITEMS[0])
    box.finish()
    assert list(box.items()) == []


def test_what_waits_is_dropped_when_the_stream_is_given_up() -> None:
    box = KVOutbox()
    for item in ITEMS:
        box.put(item)
    items = box.items()
    assert next(items) == ITEMS[0]
    box.discard()
    box.put(ITEMS[2])  # a copy that was under way
    assert list(items) == []


def test_a_reader_gets_an_item_while_the_engine_works_on() -> None:
    box = KVOutbox()
    items, read = box.items(), threading.Event()

    def produce() -> None:
        for item in ITEMS:
            box.put(item)
            read.wait(WITHIN_S)
            read.clear()
        box.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    for expected in ITEMS:
        assert next(items) == expected
        read.set()
    assert list(items) == []
    thread.join(WITHIN_S)


def test_a_stuck_engine_does_not_keep_its_reader_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_STUCK_S", 0.01)
    with pytest.raises(TimeoutError, match="made no progress"):
        next(KVOutbox().items())
