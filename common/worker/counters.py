"""Counters of a worker, and the load report made of them."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

from common.engine.batch import BatchEntry
from common.engine.build import Engine
from common.engine.sequence import Sequence
from common.ledger import HolderState
from common.messages import WorkerLoad

_CAUSES_EVERY_S = 0.5  # a look at every sequence, which no step may pay for

Holders = Iterable[tuple[HolderState, Sequence]]


@dataclass(slots=True)
class BlockCauses:
    """Blocks that sequences hold, by cause, as of a look at them not long ago."""

    num_blocks: Counter[HolderState] = field(default_factory=Counter)
    seen_s: float = -inf

    def look(self, holders: Callable[[], Holders]) -> None:
        """Count the blocks anew if the last look is too old."""
        now_s = time.monotonic()
        if now_s - self.seen_s < _CAUSES_EVERY_S:
            return
        self.seen_s = now_s
        self.num_blocks = Counter()
        for state, seq in holders():
            self.num_blocks[state] += len(seq.block_table)


@dataclass(slots=True)
class Counters:
    """Totals since the worker took its role. Only the engine's thread writes them."""

    steps: int = 0
    prefill_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    swaps: int = 0
    kv_bytes: int = 0
    kv_rejected: int = 0
    prefill_fallbacks: int = 0
    recomputed_tokens: int = 0
    causes: BlockCauses = field(default_factory=BlockCauses)

    def note_prefill(self, entry: BatchEntry) -> None:
        """Count the tokens of a chunk that ran, and those of them that had run before."""
        self.prefill_tokens += entry.num_tokens
        num_before = entry.seq.timeline.num_tokens_run
        if num_before > entry.start:
            self.recomputed_tokens += min(num_before, entry.end) - entry.start

    def to_load(
        self,
        engine: Engine,
        num_running: int,
        num_waiting: int,
        num_waiting_tokens: int,
        backlog_tokens: int,
        credit_bytes: int = 0,
        credit_wanted_bytes: int = 0,
    ) -> WorkerLoad:
        """Return the load now. Counts are of sequences and tokens; credit is in bytes."""
        pool, prefix, causes = engine.pool, engine.prefix, self.causes.num_blocks
        return WorkerLoad(
            num_running=num_running,
            num_waiting=num_waiting,
            num_waiting_tokens=num_waiting_tokens,
            backlog_tokens=backlog_tokens,
            blocks_total=pool.num_blocks,
            blocks_free=pool.num_free,
            blocks_cached=pool.num_cached,
            block_size=pool.block_size,
            steps=self.steps,
            prefill_tokens=self.prefill_tokens,
            output_tokens=self.output_tokens,
            preemptions=self.preemptions,
            swaps=self.swaps,
            kv_bytes=self.kv_bytes,
            kv_rejected=self.kv_rejected,
            prefill_fallbacks=self.prefill_fallbacks,
            recomputed_tokens=self.recomputed_tokens,
            prefix_query_tokens=prefix.num_query_tokens,
            prefix_hit_tokens=prefix.num_hit_tokens,
            credit_bytes=credit_bytes,
            credit_wanted_bytes=credit_wanted_bytes,
            correction=engine.costs.correction,
            blocks_decoding=causes[HolderState.DECODING],
            blocks_prefilling=causes[HolderState.PREFILLING],
            blocks_pulling=causes[HolderState.PULLING],
            blocks_sending=causes[HolderState.SENDING],
        )
