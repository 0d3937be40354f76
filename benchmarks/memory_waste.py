"""Share of allocated KV positions that hold nothing, computed from a list of requests."""

from benchmarks.workload import Work

_STATIC_BATCH = 8


def padding_waste(works: list[Work]) -> float:
    """Return the share of a padded static batch: all rows have the longest prompt and output."""
    used = allocated = 0
    for first in range(0, len(works), _STATIC_BATCH):
        batch = works[first : first + _STATIC_BATCH]
        prompt = max(len(work.prompt_token_ids) for work in batch)
        allocated += len(batch) * (prompt + max(work.output_tokens for work in batch))
        used += sum(work.total_tokens for work in batch)
    return 1 - used / allocated


def kv_waste(works: list[Work], block_size: int = 16) -> float:
    """Return the share of paged memory, averaged over every decode step of every request.

    Only the last block of a sequence is partly empty, since a step takes blocks when it needs them.
    """
    used = allocated = 0
    for work in works:
        start = len(work.prompt_token_ids)
        for length in range(start, start + work.output_tokens):
            used += length
            allocated += -(-length // block_size) * block_size
    return 1 - used / allocated
