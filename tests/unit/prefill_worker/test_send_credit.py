"""Items of one token, 10 bytes each; a stream of three or more holds 30 at most."""

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from common.kv_transfer.layout import KVLayout, KVShape
from common.kv_transfer.node_store import AHEAD, FixedStore
from common.kv_transfer.wire import WireItem
from common.messages import SamplingParams, WorkRequest
from prefill_worker import send_credit
from prefill_worker.outbox import KVOutbox
from prefill_worker.send_credit import SendCredit
from tests.patience import WITHIN_S

ITEM: WireItem = (b"chunk", np.zeros(10, np.uint8))
TOKEN: WireItem = (b"token", None)
LAYOUT = KVLayout("model", (KVShape(1, 1, 1),), "float32", 5, 100)
COST = 30


def make(share_bytes: int, max_batch_tokens: int = 1) -> SendCredit:
    return SendCredit(FixedStore(share_bytes), LAYOUT, max_batch_tokens)


def request(
    num_tokens: int, *, num_held_tokens: int = 0, max_item_tokens: int | None = None
) -> WorkRequest:
    return WorkRequest(
        "r",
        0,
        (1,) * num_tokens,
        SamplingParams(0.0, 0, 5),
        num_held_tokens=num_held_tokens,
        max_item_tokens=max_item_tokens,
    )


def filled(account: SendCredit, *items: WireItem) -> KVOutbox:
    box = KVOutbox(account.look_again)
    for item in items:
        box.put(item)
    box.finish()
    return box


def test_a_stream_is_charged_once_for_what_it_may_have_in_the_store() -> None:
    account = make(1000, max_batch_tokens=4)
    assert AHEAD == 2
    assert account.cost(request(100, max_item_tokens=3)) == 3 * 3 * 10
    assert account.cost(request(100)) == 3 * 4 * 10
    assert account.cost(request(100, num_held_tokens=95, max_item_tokens=3)) == 5 * 10
    taken = [account.taken_bytes for _ in account.pass_on(filled(account, *[ITEM] * 6), COST)]
    assert taken == [30] * 6
    assert account.taken_bytes == 0


@pytest.mark.parametrize(("share_bytes", "longest"), [(10_000, 8), (359, 5), (60, 1), (0, 1)])
def test_two_streams_of_the_longest_items_fit(share_bytes: int, longest: int) -> None:
    account = make(share_bytes, max_batch_tokens=8)
    assert account.max_item_tokens(request(100)) == longest
    assert account.max_item_tokens(request(100, max_item_tokens=2)) == min(longest, 2)
    assert account.max_item_tokens(request(100, max_item_tokens=50)) == longest


def test_a_stream_that_is_given_up_gives_all_back() -> None:
    account = make(100)
    stream = account.pass_on(filled(account, ITEM, ITEM, ITEM), COST)
    next(stream), next(stream)
    assert account.taken_bytes == COST
    stream.close()  # type: ignore[attr-defined]
    assert account.taken_bytes == 0


def read_in_thread(stream: Iterator[WireItem]) -> tuple[threading.Thread, list[WireItem]]:
    found: list[WireItem] = []
    thread = threading.Thread(target=lambda: found.extend(stream), daemon=True)
    thread.start()
    return thread, found


def test_who_finds_no_room_waits_for_another_to_end() -> None:
    account = make(40)
    first, second = (account.pass_on(filled(account, *[ITEM] * 3), COST) for _ in range(2))
    next(first)
    thread, found = read_in_thread(second)
    assert len(list(first)) == 2  # read to its end
    thread.join(WITHIN_S)
    assert found == [ITEM] * 3
    assert account.taken_bytes == 0


@pytest.mark.parametrize(("share_bytes", "num_streams"), [(80, 4), (20, 1), (0, 3)])
def test_streams_that_all_want_a_third_item_get_it(share_bytes: int, num_streams: int) -> None:
    account = make(share_bytes)
    mid_way = threading.Barrier(num_streams)

    def wait_mid_way() -> Iterator[WireItem]:
        for number, item in enumerate(account.pass_on(filled(account, *[ITEM] * 8), COST)):
            if number == 1 and not mid_way.broken:
                with contextlib.suppress(threading.BrokenBarrierError):
                    mid_way.wait(0.2)  # as many as may be mid-way at the same time
            yield item

    readers = [read_in_thread(wait_mid_way()) for _ in range(num_streams)]
    for thread, found in readers:
        thread.join(WITHIN_S)
        assert len(found) == 8
    assert account.taken_bytes == 0


def test_token_1_never_waits_and_one_stream_always_goes() -> None:
    account = make(5)
    first = account.pass_on(filled(account, ITEM), COST)
    second = account.pass_on(filled(account, TOKEN), COST)
    assert next(first) == ITEM
    assert next(second) == TOKEN
    assert account.taken_bytes == COST


def test_a_stream_whose_outbox_is_discarded_waits_no_longer() -> None:
    account = make(COST)
    first = account.pass_on(filled(account, ITEM), COST)
    next(first)
    box = filled(account, ITEM, ITEM)
    thread, found = read_in_thread(account.pass_on(box, COST))
    while not account._changed._waiters:  # type: ignore[attr-defined]
        assert thread.is_alive()
    box.discard()
    thread.join(WITHIN_S)
    assert not thread.is_alive()
    assert found == []
    assert account.taken_bytes == COST


def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_credit, "_STUCK_S", 0.01)
    account = make(10)
    first, second = (account.pass_on(filled(account, ITEM), COST) for _ in range(2))
    next(first)
    with pytest.raises(TimeoutError, match="no decode worker takes KV"):
        next(second)
