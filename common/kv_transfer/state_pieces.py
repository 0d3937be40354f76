"""A sequence's state on the wire: pieces of its bytes, behind the last chunk of KV.

Pieces are no longer than chunks, so that credit (prefill_worker/send_credit.py) holds for them too. The
receiver trusts nothing here either: what does not fit is refused with a WireError.
"""

from common.kv_transfer.layout import KVLayout
from common.kv_transfer.wire import (
    Payload,
    Seconds,
    StateHeader,
    WireError,
    WireItem,
    checksum_of,
    encode_header,
)


def make_state_piece(
    request_id: str,
    attempt: int,
    layout: KVLayout,
    position: int,
    start: int,
    payload: Payload,
    copied: tuple[Seconds, Seconds],
) -> WireItem:
    """Return the item of the state of `position`, from byte `start` on; `copied` is as in ChunkHeader."""
    header = StateHeader(
        request_id=request_id,
        attempt=attempt,
        fingerprint=layout.fingerprint,
        position=position,
        num_bytes=layout.state_bytes,
        dtypes=layout.state_dtypes,
        start=start,
        checksum=checksum_of(payload),
        copied=copied,
    )
    return encode_header(header), payload


def check_state_piece(
    header: StateHeader,
    payload: Payload | None,
    layout: KVLayout,
    expected_start: int,
    position: int,
) -> Payload:
    """Return the payload if it is the intact next piece of the state of `position`. Raises WireError."""
    if header.fingerprint != layout.fingerprint:
        raise WireError(f"state of model {header.fingerprint}, this is {layout.fingerprint}")
    ours = layout.state_bytes, layout.state_dtypes
    if (header.num_bytes, header.dtypes) != ours:
        raise WireError(f"state of {header.num_bytes} bytes ({header.dtypes}), expected {ours}")
    if (header.position, header.start) != (position, expected_start):
        raise WireError(
            f"state of position {header.position} from byte {header.start}, "
            f"where position {position} and byte {expected_start} were next"
        )
    num_left = layout.state_bytes - expected_start
    if payload is None or not 0 < payload.nbytes <= num_left:
        raise WireError("state payload has the wrong size")
    if checksum_of(payload) != header.checksum:
        raise WireError("state payload fails its checksum")
    return payload
