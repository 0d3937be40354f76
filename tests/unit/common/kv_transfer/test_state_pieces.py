"""A state arrives whole, or is refused."""

from dataclasses import replace

import numpy as np
import pytest

from common.kv_transfer.layout import KVLayout
from common.kv_transfer.state_pieces import check_state_piece, make_state_piece
from common.kv_transfer.wire import Payload, StateHeader, WireError, decode_header
from tests.unit.common.kv_transfer.samples import LAYOUT as PLAIN

LAYOUT = replace(PLAIN, state_bytes=100, state_dtypes="bfloat16,float32")


def piece(
    start: int = 40, size: int = 30, layout: KVLayout = LAYOUT
) -> tuple[StateHeader, Payload]:
    payload = np.arange(size, dtype=np.uint8)
    header, _ = make_state_piece("r1", 2, layout, 13, start, payload, (0.5, 0.1))
    decoded = decode_header(header)
    assert isinstance(decoded, StateHeader)
    return decoded, payload


def accept(header: StateHeader, payload: Payload | None, layout: KVLayout = LAYOUT) -> Payload:
    """Check a piece where 40 of 100 bytes of the state behind 13 tokens are here."""
    return check_state_piece(header, payload, layout, expected_start=40, position=13)


def test_the_next_piece_is_accepted() -> None:
    header, payload = piece()
    assert (header.request_id, header.attempt, header.copied) == ("r1", 2, (0.5, 0.1))
    assert accept(header, payload) is payload


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"fingerprint": "model-b"}, "state of model model-a, this is model-b"),
        ({"state_bytes": 104}, "state of 100 bytes"),
        ({"state_dtypes": "float32"}, r"\(bfloat16,float32\), expected"),
        ({"state_bytes": 0, "state_dtypes": ""}, "state of 100 bytes"),
    ],
)
def test_a_state_of_another_model_size_or_dtype_is_refused(
    other: dict[str, int | str], message: str
) -> None:
    header, payload = piece()
    with pytest.raises(WireError, match=message):
        accept(header, payload, replace(LAYOUT, **other))  # type: ignore[arg-type]


def test_a_piece_that_is_not_next_is_refused() -> None:
    header, payload = piece(start=0)
    with pytest.raises(WireError, match="byte 40 were next"):
        accept(header, payload)
    header, payload = piece()
    with pytest.raises(WireError, match="position 14"):
        check_state_piece(header, payload, LAYOUT, expected_start=40, position=14)


@pytest.mark.parametrize("size", [0, 61])
def test_a_piece_of_no_possible_size_is_refused(size: int) -> None:
    header, payload = piece(size=size)
    with pytest.raises(WireError, match="wrong size"):
        accept(header, payload)


def test_damage_and_absence_are_refused() -> None:
    header, payload = piece()
    with pytest.raises(WireError, match="wrong size"):
        accept(header, None)
    payload[3] ^= 4
    with pytest.raises(WireError, match="checksum"):
        accept(header, payload)
