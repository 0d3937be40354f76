"""Wire format from prefill to decode: a small msgpack header, and for a chunk one host buffer.

A chunk's payload is KVLayout's: the keys and then the values of one layer after the other, contiguous, as
blocks hold them, seen as bytes. In a model with state, pieces of it follow the last chunk (state_pieces.py).
Token 1 has a payload if the request wants its prompt's log-probabilities (prompt_logprobs.py).
The receiver trusts nothing. Version, request, attempt, fingerprint, layout, token range and the checksums
(XXH3-64) must all fit, or the item is refused with a WireError. Seconds in headers are on the sender's
monotonic clock, from the prompt's arrival there; common/engine/remote_prefill.py translates them.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.kv_transfer import prompt_logprobs
from common.kv_transfer.layout import WIRE_VERSION, KVLayout, Run
from common.messages import TokenLogprobs
from pdserve.errors import Reason

_MAX_HEADER_BYTES = 1 << 20
_DIGEST_BYTES = 8

Payload = NDArray[np.uint8]
WireItem = tuple[bytes, Payload | None]
Seconds = Annotated[float, Field(ge=0)]


class WireError(ValueError):
    """An item is foreign, damaged or out of order, and must not be used."""


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[3] = WIRE_VERSION
    request_id: str
    attempt: int


class ChunkHeader(_Header):
    """Header of KV of the prompt positions [start, end); the payload comes with it."""

    kind: Literal["chunk"] = "chunk"
    fingerprint: str
    layout: tuple[int, tuple[Run, ...]] = Field(
        description="bytes per element; of layers alike: number, kv_heads, key and value channels"
    )
    start: int = Field(ge=0)
    end: int = Field(gt=0)
    checksum: int = Field(ge=0)
    copied: tuple[Seconds, Seconds] = Field(
        description="Start and duration of the copy out of blocks; sent at its end"
    )


class StateHeader(_Header):
    """Header of bytes from `start` on of the state behind `position` tokens; they come with it."""

    kind: Literal["state"] = "state"
    fingerprint: str
    position: int = Field(gt=0)
    num_bytes: int = Field(gt=0, description="Of the whole state")
    dtypes: str
    start: int = Field(ge=0)
    checksum: int = Field(ge=0)
    copied: tuple[Seconds, Seconds] = Field(description="As in ChunkHeader")


class FirstTokenHeader(_Header):
    """Header of token 1, sampled by prefill and sent before the last chunk's KV."""

    kind: Literal["first_token"] = "first_token"
    token_id: int = Field(ge=0)
    sent_s: Seconds
    num_cached_tokens: int = Field(ge=0, description="Of the prompt, not computed anew")
    chunks: tuple[tuple[float, float, int], ...] = Field(
        min_length=1, description="start_s, duration_s, num_tokens"
    )
    logprobs: tuple[float, tuple[int, ...], tuple[float, ...]] | None = Field(
        default=None, description="The fields of TokenLogprobs"
    )
    prompt_top: int | None = Field(
        default=None, ge=0, description="Likeliest tokens an entry of the payload; None: no payload"
    )
    checksum: int | None = Field(default=None, ge=0)


class FailureHeader(_Header):
    """Header of the end of a stream that failed on prefill; nothing follows."""

    kind: Literal["failure"] = "failure"
    reason: str
    message: str


Header = ChunkHeader | StateHeader | FirstTokenHeader | FailureHeader
_HEADERS: TypeAdapter[Header] = TypeAdapter(Annotated[Header, Field(discriminator="kind")])


def encode_header(header: Header) -> bytes:
    """Return a header as bytes: checksum, then msgpack."""
    packed: bytes = msgpack.packb(header.model_dump())
    return _digest(packed) + packed


def decode_header(data: bytes) -> Header:
    """Return the header of these bytes. Raises WireError for anything else, never another exception."""
    if len(data) > _MAX_HEADER_BYTES:
        raise WireError(f"header of {len(data)} bytes")
    packed = data[_DIGEST_BYTES:]
    if _digest(packed) != data[:_DIGEST_BYTES]:
        raise WireError("header fails its checksum")
    try:
        fields = msgpack.unpackb(packed, strict_map_key=True, use_list=False)
        return _HEADERS.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise WireError(
            f"header field {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"header is not msgpack: {error}") from error


def make_chunk(
    request_id: str,
    attempt: int,
    layout: KVLayout,
    start: int,
    payload: Payload,
    copied: tuple[float, float],
) -> WireItem:
    """Return the item of the chunk that begins at position `start`; `copied` is as in ChunkHeader."""
    header = ChunkHeader(
        request_id=request_id,
        attempt=attempt,
        fingerprint=layout.fingerprint,
        layout=layout.key,
        start=start,
        end=start + payload.nbytes // layout.num_bytes(1),
        checksum=checksum_of(payload),
        copied=copied,
    )
    return encode_header(header), payload


def check_chunk(
    header: ChunkHeader, payload: Payload | None, layout: KVLayout, expected_start: int, limit: int
) -> Payload:
    """Return the payload if it is the intact next chunk of a prompt of `limit` tokens. Raises WireError."""
    if header.fingerprint != layout.fingerprint:
        raise WireError(f"chunk of model {header.fingerprint}, this is {layout.fingerprint}")
    if header.layout != layout.key:
        raise WireError(f"chunk layout {header.layout}, expected {layout.key}")
    if header.start != expected_start or not expected_start < header.end <= limit:
        raise WireError(
            f"chunk [{header.start}, {header.end}) where {expected_start} of {limit} was next"
        )
    if payload is None or payload.nbytes != layout.num_bytes(header.end - header.start):
        raise WireError("chunk payload has the wrong size")
    if checksum_of(payload) != header.checksum:
        raise WireError("chunk payload fails its checksum")
    return payload


def make_first_token(header: FirstTokenHeader, prompt: Sequence[TokenLogprobs] | None) -> WireItem:
    """Return the item of token 1; `prompt` has log-probabilities of the prompt's tokens from the 2nd on."""
    if prompt is None:
        return encode_header(header), None
    num_top = len(prompt[0].top_token_ids) if prompt else 0
    payload = prompt_logprobs.pack(prompt, num_top)
    marks = {"prompt_top": num_top, "checksum": checksum_of(payload)}
    return encode_header(header.model_copy(update=marks)), payload


def check_first_token(
    header: FirstTokenHeader, payload: Payload | None, num_prompt_tokens: int, *, scored: bool
) -> list[TokenLogprobs] | None:
    """Return the prompt's log-probabilities, which must be there if `scored`. Raises WireError."""
    if not scored:
        return None
    if payload is None or header.prompt_top is None or checksum_of(payload) != header.checksum:
        raise WireError("log-probabilities of the prompt are missing or fail their checksum")
    try:
        return prompt_logprobs.unpack(payload, num_prompt_tokens - 1, header.prompt_top)
    except ValueError as error:
        raise WireError(f"log-probabilities of the prompt: {error}") from error


def make_failure(request_id: str, attempt: int, reason: Reason, message: str) -> WireItem:
    """Return the item that ends a stream with a failure."""
    header = FailureHeader(
        request_id=request_id, attempt=attempt, reason=str(reason), message=message
    )
    return encode_header(header), None


def _digest(packed: bytes) -> bytes:
    digest: bytes = xxhash.xxh3_64_digest(packed)
    return digest


def checksum_of(payload: Payload) -> int:
    """Return the XXH3-64 of a payload's bytes."""
    return xxhash.xxh3_64_intdigest(payload.data)
