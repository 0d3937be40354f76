from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kv_transfer.layout import KVLayout, KVShape
from common.kv_transfer.wire import (
    ChunkHeader,
    FirstTokenHeader,
    Header,
    Payload,
    WireError,
    check_chunk,
    decode_header,
    encode_header,
    make_failure,
)
from pdserve.errors import Reason
from tests.unit.common.kv_transfer.samples import FAILURE, HEADERS, LAYOUT, chunk

each_header = pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.kind)


def accept(header: ChunkHeader, payload: Payload | None, layout: KVLayout = LAYOUT) -> Payload:
    """Check a chunk where 8 of a prompt's 13 tokens are here."""
    return check_chunk(header, payload, layout, expected_start=8, limit=13)


@each_header
def test_a_header_comes_back_equal(header: Header) -> None:
    assert decode_header(encode_header(header)) == header


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    request_id=st.text(max_size=40),
    attempt=st.integers(0, 2**31),
    token_id=st.integers(0, 2**31),
    num_cached_tokens=st.integers(0, 2**20),
    sent_s=st.floats(0, 1e6),
    chunks=st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 10**6)),
        min_size=1,
        max_size=4,
    ),
)
def test_any_first_token_comes_back_equal(
    request_id: str,
    attempt: int,
    token_id: int,
    num_cached_tokens: int,
    sent_s: float,
    chunks: list[tuple[float, float, int]],
) -> None:
    header = FirstTokenHeader(
        request_id=request_id,
        attempt=attempt,
        token_id=token_id,
        num_cached_tokens=num_cached_tokens,
        sent_s=sent_s,
        chunks=tuple(chunks),
    )
    assert decode_header(encode_header(header)) == header


def test_a_chunk_says_what_it_holds() -> None:
    header, payload = chunk(start=8, num_tokens=5)
    assert (header.request_id, header.attempt) == ("r1", 2)
    assert (header.start, header.end) == (8, 13)
    assert header.layout == (2, ((2, 3, 4, 4),))
    assert accept(header, payload) is payload


def test_chunks_in_a_row_are_accepted() -> None:
    for start, num_tokens in ((0, 4), (4, 1), (5, 8)):
        header, payload = chunk(start, num_tokens)
        check_chunk(header, payload, LAYOUT, expected_start=start, limit=13)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"fingerprint": "model-b"}, "chunk of model model-a, this is model-b"),
        ({"shapes": (KVShape(3, 4, 4),) * 3}, "chunk layout"),
        ({"shapes": (KVShape(2, 4, 4),) * 2}, "chunk layout"),
        ({"shapes": (KVShape(3, 8, 8),) * 2}, "chunk layout"),
        ({"shapes": (KVShape(3, 5, 3),) * 2}, "chunk layout"),
        ({"shapes": (KVShape(3, 4, 4), KVShape(4, 3, 3))}, "chunk layout"),
        ({"bytes_per_element": 4}, "chunk layout"),
    ],
)
def test_kv_of_another_model_or_shape_is_refused(other: dict[str, object], message: str) -> None:
    header, payload = chunk()
    with pytest.raises(WireError, match=message):
        accept(header, payload, replace(LAYOUT, **other))  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "num_tokens"), [(7, 5), (9, 4), (0, 13), (8, 6), (13, 1)])
def test_a_chunk_that_is_not_next_is_refused(start: int, num_tokens: int) -> None:
    header, payload = chunk(start, num_tokens)
    with pytest.raises(WireError, match=r"where 8 of 13 was next"):
        accept(header, payload)


@pytest.mark.parametrize("change", ["none", "shorter", "longer"])
def test_a_payload_of_another_size_is_refused(change: str) -> None:
    header, payload = chunk()
    other = {"none": None, "shorter": payload[:-1], "longer": np.append(payload, payload[:1])}
    with pytest.raises(WireError, match="wrong size"):
        accept(header, other[change])


def test_an_empty_chunk_is_refused() -> None:
    header, payload = chunk(start=8, num_tokens=0)
    with pytest.raises(WireError):
        accept(header, payload)


def test_a_failure_is_an_item_without_payload() -> None:
    encoded, payload = make_failure("r1", 3, Reason.NAN_LOGITS, "broken")
    assert payload is None
    assert decode_header(encoded) == FAILURE.model_copy(update={"attempt": 3})
