import threading
from collections.abc import Callable, Iterator

import pytest

from common.kv_transfer.in_process import InProcessStream, InProcessTransport
from common.kv_transfer.node_store import AHEAD
from common.kv_transfer.transport import TransferError
from common.kv_transfer.wire import WireItem
from common.messages import SamplingParams, WorkRequest
from tests.patience import WITHIN_S

REQUEST = WorkRequest("r1", 4, (1, 2, 3), SamplingParams(0.0, 0, 5))
ITEMS: list[WireItem] = [(b"one", None), (b"two", None), (b"three", None)]


class Source:
    """A KVSource that answers with `items`."""

    def __init__(self, items: Callable[[], Iterator[WireItem]]) -> None:
        self._items = items
        self.requests: list[WorkRequest] = []
        self.cancelled: list[tuple[str, int]] = []

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        self.requests.append(request)
        return self._items()

    def cancel_stream(self, request_id: str, attempt: int) -> None:
        self.cancelled.append((request_id, attempt))


def open_stream(source: Source) -> InProcessStream:
    return InProcessTransport({"p0": source}).open("p0", REQUEST)


def test_items_come_in_order_and_then_the_end() -> None:
    source = Source(lambda: iter(ITEMS))
    stream = open_stream(source)
    assert [stream.next(WITHIN_S) for _ in ITEMS] == ITEMS
    assert stream.next(WITHIN_S) is None
    assert source.requests == [REQUEST]


def test_an_item_can_be_read_before_the_next_one_exists() -> None:
    may_go_on = threading.Event()

    def items() -> Iterator[WireItem]:
        yield ITEMS[0]
        assert may_go_on.wait(WITHIN_S)
        yield ITEMS[1]

    stream = open_stream(Source(items))
    assert stream.next(WITHIN_S) == ITEMS[0]
    may_go_on.set()
    assert stream.next(WITHIN_S) == ITEMS[1]


def test_a_source_that_breaks_is_a_transfer_error_after_what_it_sent() -> None:
    def items() -> Iterator[WireItem]:
        yield ITEMS[0]
        raise OSError("cable cut")

    stream = open_stream(Source(items))
    assert stream.next(WITHIN_S) == ITEMS[0]
    with pytest.raises(TransferError, match="cable cut"):
        stream.next(WITHIN_S)


def test_a_silent_source_is_a_transfer_error_in_time() -> None:
    never = threading.Event()

    def items() -> Iterator[WireItem]:
        never.wait(WITHIN_S)
        yield ITEMS[0]

    stream = open_stream(Source(items))
    with pytest.raises(TransferError, match=r"no KV for 0\.05 s"):
        stream.next(0.05)
    never.set()


def test_a_worker_that_is_not_there_is_a_transfer_error() -> None:
    with pytest.raises(TransferError, match="no prefill worker named p1"):
        InProcessTransport({"p0": Source(lambda: iter(ITEMS))}).open("p1", REQUEST)


def test_closing_tells_the_source_which_run_it_was() -> None:
    source = Source(lambda: iter(ITEMS))
    stream = open_stream(source)
    stream.close()
    stream.close()
    assert set(source.cancelled) == {("r1", 4)}


def test_streams_of_one_transport_do_not_mix() -> None:
    sources = {name: Source(lambda n=name: iter([(n.encode(), None)])) for name in ("p0", "p1")}  # type: ignore[misc]
    transport = InProcessTransport(sources)
    streams = [transport.open(name, REQUEST) for name in ("p1", "p0", "p1")]
    assert [stream.next(WITHIN_S) for stream in streams] == [
        (b"p1", None),
        (b"p0", None),
        (b"p1", None),
    ]


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_source_is_held_back_while_its_items_are_unread_unless_nobody_will_read(
    is_closed: bool,
) -> None:
    made, has_ended = [], threading.Event()

    def items() -> Iterator[WireItem]:
        for number in range(9):
            made.append(number)
            yield ITEMS[0]
        has_ended.set()

    stream = open_stream(Source(items))
    for number_read in range(1, 4):
        stream.next(WITHIN_S)
        assert len(made) <= number_read + AHEAD
    if is_closed:
        stream.close()
    else:
        for _ in range(6):
            stream.next(WITHIN_S)
    assert has_ended.wait(WITHIN_S)


def test_a_close_ends_the_wait_for_an_item() -> None:
    never = threading.Event()

    def items() -> Iterator[WireItem]:
        never.wait(WITHIN_S)
        yield ITEMS[0]

    stream = open_stream(Source(items))
    found: list[WireItem | None] = []
    reader = threading.Thread(target=lambda: found.append(stream.next(WITHIN_S)), daemon=True)
    reader.start()
    stream.close()
    reader.join(WITHIN_S)
    assert found == [None]
    never.set()
