"""Items of 10 bytes in a share of 40; a transport that holds a stream back behind two unread items."""

import threading
from collections.abc import Iterator
from itertools import repeat

import numpy as np
import pytest

from common.kv_transfer.node_store import AHEAD, FixedStore
from common.kv_transfer.wire import WireItem
from prefill_worker import outgoing
from prefill_worker.outgoing import Outgoing

ITEM: WireItem = (b"chunk", np.zeros(10, np.uint8))
TOKEN: WireItem = (b"token", None)
WITHIN_S = 5.0


def test_what_the_reader_let_go_is_counted_no_more() -> None:
    account = Outgoing(FixedStore(100))
    stream = account.pass_on(repeat(ITEM, 6))
    taken = []
    for _ in stream:
        taken.append(account.taken_bytes)
    # at the third one the first two are unread, or were read a moment ago; so it goes on
    assert AHEAD == 2
    assert taken == [10, 20, 30, 30, 30, 30]
    assert account.taken_bytes == 0


def test_a_stream_that_is_given_up_gives_all_back() -> None:
    account = Outgoing(FixedStore(100))
    stream = account.pass_on(repeat(ITEM))
    next(stream), next(stream)
    assert account.taken_bytes == 20
    stream.close()  # type: ignore[attr-defined]
    assert account.taken_bytes == 0


def read_in_thread(stream: Iterator[WireItem]) -> tuple[threading.Thread, list[WireItem]]:
    found: list[WireItem] = []
    thread = threading.Thread(target=lambda: found.append(next(stream)))
    thread.start()
    return thread, found


def test_who_finds_no_room_waits_for_another_to_let_go() -> None:
    account = Outgoing(FixedStore(40))
    first, second = account.pass_on(repeat(ITEM, 3)), account.pass_on(repeat(ITEM, 3))
    for _ in range(3):
        next(first)
    next(second)
    assert account.taken_bytes == 40
    thread, found = read_in_thread(second)
    assert list(first) == []  # read to its end
    thread.join(WITHIN_S)
    assert found == [ITEM]
    assert account.taken_bytes == 20


def test_token_1_never_waits_and_one_item_always_goes() -> None:
    account = Outgoing(FixedStore(5))
    first, second = account.pass_on([ITEM]), account.pass_on([TOKEN])
    assert next(first) == ITEM
    assert next(second) == TOKEN
    assert account.taken_bytes == 10


def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "_STUCK_S", 0.01)
    account = Outgoing(FixedStore(10))
    first, second = account.pass_on([ITEM]), account.pass_on([ITEM])
    next(first)
    with pytest.raises(TimeoutError, match="no decode worker takes KV"):
        next(second)
