"""Items of a transfer, as a healthy prefill worker sends them."""

import numpy as np

from common.kv_transfer.layout import KVLayout, KVShape
from common.kv_transfer.wire import (
    ChunkHeader,
    FailureHeader,
    FirstTokenHeader,
    Header,
    Payload,
    decode_header,
    make_chunk,
)

LAYOUT = KVLayout(
    fingerprint="model-a",
    shapes=(KVShape(3, 4, 4),) * 2,
    dtype="bfloat16",
    bytes_per_element=2,
    vocab_size=100,
)
FIRST_TOKEN = FirstTokenHeader(
    request_id="r1",
    attempt=2,
    token_id=77,
    num_cached_tokens=16,
    sent_s=1.5,
    chunks=((0.5, 0.125, 64), (1.0, 0.25, 9)),
)
FAILURE = FailureHeader(request_id="r1", attempt=2, reason="NAN_LOGITS", message="broken")


def make_payload(num_tokens: int) -> Payload:
    return np.random.default_rng(5).integers(0, 256, LAYOUT.num_bytes(num_tokens), np.uint8)


def chunk(start: int = 8, num_tokens: int = 5) -> tuple[ChunkHeader, Payload]:
    encoded, payload = make_chunk("r1", 2, LAYOUT, start, make_payload(num_tokens), (1.25, 0.0625))
    header = decode_header(encoded)
    assert isinstance(header, ChunkHeader)
    assert payload is not None
    return header, payload


HEADERS: list[Header] = [chunk()[0], FIRST_TOKEN, FAILURE]
