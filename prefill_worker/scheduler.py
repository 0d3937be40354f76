"""Which prompts run next on a prefill worker. Plain lists; no tensors, no sockets."""

from common.engine.batch import Batch, cut_chunks
from common.engine.prefix_cache import PrefixCache
from common.engine.sequence import Sequence
from common.engine.waiting_queue import WaitingQueue


class PrefillScheduler:
    """First come, first served (WaitingQueue has the exceptions), under a token budget.

    Several prompts share a step and a long prompt is cut into chunks. A prompt is admitted with blocks
    for all of it, so that no half-run prompt ever waits for memory; it gives them back at its end.
    This is simpler than decode's scheduler because nothing here grows, so nothing is ever preempted.
    """

    def __init__(self, prefix: PrefixCache, max_batch_tokens: int, max_num_seqs: int) -> None:
        self._prefix = prefix
        self._pool = prefix.pool
        self._max_batch_tokens = max_batch_tokens
        self._max_num_seqs = max_num_seqs
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []

    @property
    def num_waiting_tokens(self) -> int:
        """Prompt tokens still to compute, admitted or not."""
        return sum(seq.num_uncomputed_tokens for seq in (*self.waiting, *self.running))

    def can_ever_run(self, num_tokens: int) -> bool:
        """Whether a prompt of this length fits in the pool at all."""
        return self._pool.num_blocks_for(num_tokens) <= self._pool.num_blocks

    def add(self, seq: Sequence) -> None:
        """Queue a new prompt."""
        self.waiting.append(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a prompt and give its blocks back, wherever it stands."""
        if seq in self.running:
            self.running.remove(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)
        self._prefix.release(seq)

    def schedule(self) -> Batch | None:
        """The next step's chunks, None when there is nothing to run."""
        self._admit()
        entries = cut_chunks(self.running, self._max_batch_tokens)
        return Batch(tuple(entries)) if entries else None

    def _admit(self) -> None:
        # Admit only what the next step can start on: later ones would only hold memory.
        budget = self._max_batch_tokens - sum(seq.num_uncomputed_tokens for seq in self.running)
        while budget > 0 and len(self.running) < self._max_num_seqs:
            seq = self.waiting.take(lambda s: self._prefix.reserve(s, s.num_prompt_tokens))
            if seq is None:
                return
            self.running.append(seq)
            budget -= seq.num_uncomputed_tokens
