"""Ledger of a worker's KV blocks: which requests hold them, and why. Plain data."""

from dataclasses import dataclass
from enum import StrEnum

MAX_HOLDERS = 1024  # of one ledger: about 100 KiB


class HolderState(StrEnum):
    """Reason why a request holds blocks, or holds none (ledger.proto)."""

    QUEUED = "queued"
    PULLING = "pulling"
    PREFILLING = "prefilling"
    SENDING = "sending"
    DECODING = "decoding"
    SWAPPED = "swapped"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True)
class BlockQuestion:
    """Question about all requests, or one request or group; `is_check` asks for the invariants too."""

    request_id: str = ""
    is_check: bool = False


@dataclass(frozen=True, slots=True)
class HeldBlocks:
    """Requests of one state, and the blocks that they hold."""

    state: HolderState
    num_requests: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class StreamUse:
    """Open streams of KV, in or out, and the bytes of the object store that they are charged for."""

    num_streams: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Integrity:
    """Outcome of a check of the invariants; `problem` is the first that does not hold, or empty."""

    is_checked: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class BlockHolder:
    """One request on one worker. Others hold `num_shared_blocks` of its blocks too."""

    request_id: str
    state: HolderState
    num_blocks: int
    num_shared_blocks: int
    num_tokens: int
    num_computed_tokens: int
    host_bytes: int
    age_s: float


@dataclass(frozen=True, slots=True)
class BlockLedger:
    """A worker's KV memory between two steps. `holders` lists at most MAX_HOLDERS of `num_holders`.

    `held` has all of them, by state; a block that several hold counts once there.
    """

    blocks_total: int
    blocks_free: int
    blocks_cached: int
    blocks_unaccounted: int
    block_size: int
    num_holders: int
    holders: tuple[BlockHolder, ...]
    held: tuple[HeldBlocks, ...] = ()
    streams: StreamUse = StreamUse()
    integrity: Integrity = Integrity()
