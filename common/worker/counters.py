"""Counters of a worker, and the load report made of them."""

from dataclasses import dataclass

from common.engine.build import Engine
from common.messages import WorkerLoad


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
        pool, prefix = engine.pool, engine.prefix
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
            prefix_query_tokens=prefix.num_query_tokens,
            prefix_hit_tokens=prefix.num_hit_tokens,
            credit_bytes=credit_bytes,
            credit_wanted_bytes=credit_wanted_bytes,
            correction=engine.costs.correction,
        )
