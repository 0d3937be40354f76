"""Ledger of a block pool: which sequences hold how many blocks."""

import time
from collections.abc import Callable, Collection

from common.engine.memory.block_pool import BlockPool
from common.engine.sequence import Sequence
from common.ledger import MAX_HOLDERS, BlockHolder, BlockLedger, HolderState


def make_ledger(
    pool: BlockPool,
    live: Collection[Sequence],
    state_of: Callable[[Sequence], HolderState],
    host_bytes_of: Callable[[Sequence], int],
    request_id: str,
) -> BlockLedger:
    """Return the ledger of all `live` sequences, or with `request_id` of those
    of this request or group. Nobody but `live` may hold blocks. Engine thread only, between two steps.
    """
    now_s = time.monotonic()
    asked = [
        seq for seq in live if not request_id or request_id in (seq.request_id, seq.request.group)
    ]
    most_first = sorted(asked, key=lambda seq: -len(seq.block_table))
    known = {block_id for seq in live for block_id in seq.block_table} if not request_id else None
    return BlockLedger(
        blocks_total=pool.num_blocks,
        blocks_free=pool.num_free,
        blocks_cached=pool.num_cached,
        blocks_unaccounted=pool.num_held - len(known) if known is not None else 0,
        block_size=pool.block_size,
        num_holders=len(asked),
        holders=tuple(
            BlockHolder(
                request_id=seq.request_id,
                state=state_of(seq),
                num_blocks=len(seq.block_table),
                num_shared_blocks=pool.num_shared_among(seq.block_table),
                num_tokens=len(seq.token_ids),
                num_computed_tokens=seq.num_computed_tokens,
                host_bytes=host_bytes_of(seq),
                age_s=now_s - seq.timeline.arrival_s,
            )
            for seq in most_first[:MAX_HOLDERS]
        ),
    )
