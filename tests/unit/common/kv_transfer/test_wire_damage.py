"""The receiver trusts nothing: a header is what was sent, or it is refused with a WireError."""

import contextlib

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from common.kv_transfer.wire import (
    FailureHeader,
    Header,
    WireError,
    check_chunk,
    decode_header,
    encode_header,
)
from tests.examples import examples
from tests.unit.common.kv_transfer.samples import FIRST_TOKEN, HEADERS, LAYOUT, chunk

each_header = pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.kind)
# the forger's headers are no valid ones, as pydantic remarks
forging = pytest.mark.filterwarnings("ignore:Pydantic serializer")


@settings(deadline=None, derandomize=True, max_examples=examples(60))
@given(which=st.sampled_from(HEADERS), position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_flipped_byte_in_a_header_is_refused(which: Header, position: int, flip: int) -> None:
    encoded = bytearray(encode_header(which))
    encoded[position % len(encoded)] ^= flip
    with pytest.raises(WireError):
        decode_header(bytes(encoded))


@settings(deadline=None, derandomize=True, max_examples=examples(30))
@given(position=st.integers(0, LAYOUT.num_bytes(5) - 1), flip=st.integers(1, 255))
def test_a_flipped_byte_in_a_payload_is_refused(position: int, flip: int) -> None:
    header, payload = chunk()
    payload[position] ^= flip
    with pytest.raises(WireError, match="fails its checksum"):
        check_chunk(header, payload, LAYOUT, expected_start=8, limit=13)


@settings(deadline=None, derandomize=True, max_examples=examples(100))
@given(st.binary(max_size=100), st.booleans())
def test_garbage_is_refused(data: bytes, is_sealed: bool) -> None:
    """Garbage is refused also when its checksum fits."""
    seal = xxhash.xxh3_64_digest(data) if is_sealed else b""
    with pytest.raises(WireError):
        decode_header(seal + data)


@settings(deadline=None, derandomize=True, max_examples=examples(100))
@given(which=st.sampled_from(HEADERS), position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_resealed_flip_is_refused_or_a_header(which: Header, position: int, flip: int) -> None:
    """A peer that breaks headers before it seals them cannot break the receiver."""
    packed = bytearray(encode_header(which)[8:])
    packed[position % len(packed)] ^= flip
    with contextlib.suppress(WireError):
        header = decode_header(xxhash.xxh3_64_digest(packed) + bytes(packed))
        assert decode_header(encode_header(header)) == header


@each_header
def test_every_truncation_is_refused(header: Header) -> None:
    encoded = encode_header(header)
    for length in range(len(encoded)):
        with pytest.raises(WireError):
            decode_header(encoded[:length])


@each_header
def test_something_after_a_header_is_refused(header: Header) -> None:
    with pytest.raises(WireError):
        decode_header(encode_header(header) + b"\x00")


def test_an_enormous_header_is_refused_unread() -> None:
    with pytest.raises(WireError, match="header of 1048577 bytes"):
        decode_header(b"\x00" * ((1 << 20) + 1))


def forged(header: BaseModel, **changes: object) -> bytes:
    """Return the intact item of a peer with another idea of the format."""
    fields = {**header.model_dump(), **changes}
    return encode_header(type(header).model_construct(None, **fields))  # type: ignore[arg-type]


@forging
@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": 4},
        {"kind": "chunks"},
        {"request_id": 5},
        {"attempt": "2"},
        {"start": -1},
        {"end": 0},
        {"end": 13.0},
        {"layout": (2, 3, 4)},
        {"checksum": None},
        {"fingerprint": b"model-a"},
        {"copied": (1.0,)},
        {"copied": (1.0, -0.5)},
        {"copied": (float("inf"), 0.0)},
    ],
    ids=str,
)
def test_a_field_that_is_not_ours_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WireError, match="header field"):
        decode_header(forged(HEADERS[0], **changes))


@forging
@pytest.mark.parametrize(
    "changes",
    [
        {"token_id": -1},
        {"sent_s": -0.5},
        {"sent_s": float("nan")},
        {"sent_s": float("inf")},
        {"chunks": ()},
        {"chunks": ((1, 2),)},
        {"chunks": ((1.0, float("nan"), 2),)},
    ],
    ids=str,
)
def test_a_first_token_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WireError, match="header field"):
        decode_header(forged(FIRST_TOKEN, **changes))


def test_an_unknown_field_is_refused() -> None:
    class Longer(FailureHeader):
        extra: int = 1

    longer = Longer(request_id="r1", attempt=2, reason="INTERNAL", message="")
    with pytest.raises(WireError, match="extra"):
        decode_header(encode_header(longer))
