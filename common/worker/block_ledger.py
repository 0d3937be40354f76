"""Ledger of a block pool: which sequences hold how many blocks."""

import time
from collections import Counter
from collections.abc import Callable, Collection

from common.engine.memory.block_pool import BlockPool
from common.engine.sequence import Sequence
from common.ledger import MAX_HOLDERS, BlockHolder, BlockLedger, HeldBlocks, HolderState


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
    held = _held_by_state(asked, state_of)
    num_known = sum(each.num_blocks for each in held)
    return BlockLedger(
        blocks_total=pool.num_blocks,
        blocks_free=pool.num_free,
        blocks_cached=pool.num_cached,
        blocks_unaccounted=0 if request_id else pool.num_held - num_known,
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
        held=held,
    )


def _held_by_state(
    sequences: Collection[Sequence], state_of: Callable[[Sequence], HolderState]
) -> tuple[HeldBlocks, ...]:
    seen: set[int] = set()
    num_requests, num_blocks = Counter[HolderState](), Counter[HolderState]()
    for seq in sequences:
        state, before = state_of(seq), len(seen)
        seen.update(seq.block_table)
        num_requests[state] += 1
        num_blocks[state] += len(seen) - before
    return tuple(
        HeldBlocks(state, num_requests[state], num_blocks[state])
        for state in HolderState
        if num_requests[state]
    )
