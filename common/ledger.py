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
    """A worker's KV memory between two steps. `holders` lists at most MAX_HOLDERS of `num_holders`."""

    blocks_total: int
    blocks_free: int
    blocks_cached: int
    blocks_unaccounted: int
    block_size: int
    num_holders: int
    holders: tuple[BlockHolder, ...]
