"""Which sequences run next on a decode worker. Plain lists; no tensors, no sockets."""

from collections import deque

from common.engine.batch import Batch, BatchEntry, cut_chunks
from common.engine.prefix_cache import PrefixCache
from common.engine.sequence import Sequence


class DecodeScheduler:
    """Continuous batching (Orca, Yu et al. 2022): sequences enter and leave at every step.

    `running` holds sequences with blocks, oldest first: those that decode, and those whose prompt (or
    recomputation) still has chunks to run here. Every step takes all decode tokens first and gives the
    rest of the token budget to chunks. When a sequence cannot grow, the newest is preempted by recompute;
    the last one never is: with nobody else running it waits for blocks that arriving KV holds.
    """

    def __init__(
        self, prefix: PrefixCache, max_batch_tokens: int, max_num_seqs: int, watermark: float
    ) -> None:
        self._prefix = prefix
        self._pool = pool = prefix.pool
        self._max_batch_tokens = max_batch_tokens
        self._max_num_seqs = max_num_seqs
        self.watermark_blocks = int(pool.num_blocks * watermark)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens that this worker still has to run as prefill."""
        sequences = (*self.waiting, *self.running)
        return sum(s.num_uncomputed_tokens for s in sequences if s.num_uncomputed_tokens > 1)

    def has_room(self, num_arriving: int) -> bool:
        """Whether one more sequence may be on its way in, beside `num_arriving` others.

        Never while a sequence waits here: it was first, or lost its blocks.
        """
        return not self.waiting and len(self.running) + num_arriving < self._max_num_seqs

    def can_ever_run(self, num_tokens: int) -> bool:
        """Whether a sequence of this final length fits in the pool at all."""
        return self._pool.num_blocks_for(num_tokens) <= self._pool.num_blocks

    def add(self, seq: Sequence) -> None:
        """Queue a sequence whose prompt runs here."""
        self.waiting.append(seq)

    def join(self, seq: Sequence) -> None:
        """Take a sequence that holds its blocks already into the running batch."""
        self.running.append(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a sequence, wherever it stands; its blocks are the caller's to release."""
        if seq in self.running:
            self.running.remove(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)

    def schedule(self, num_arriving: int = 0) -> Batch | None:
        """The next step's batch, None when there is nothing to run.

        The batch keeps slots for the `num_arriving` sequences on their way in.
        """
        stalled = self._grow_running()
        self._admit(self._max_num_seqs - num_arriving)
        ready = [seq for seq in self.running if seq is not stalled]
        decoding = [BatchEntry(s, 1) for s in ready if s.num_uncomputed_tokens == 1]
        filling = [seq for seq in ready if seq.num_uncomputed_tokens > 1]
        entries = decoding + cut_chunks(filling, self._max_batch_tokens - len(decoding))
        return Batch(tuple(entries)) if entries else None

    def _grow_running(self) -> Sequence | None:
        """Give every running sequence the block its next token needs, oldest first.

        Returns the one sequence that has to sit this step out, if any.
        """
        position = 0
        while position < len(self.running):
            seq = self.running[position]
            missing = self._pool.num_blocks_for(len(seq.token_ids)) - len(seq.block_table)
            if missing <= 0:
                position += 1
            elif self._pool.can_allocate(missing):
                seq.block_table.extend(self._pool.allocate(missing))
            elif len(self.running) == 1:
                return seq
            else:
                self._preempt(self.running[-1])
        return None

    def _preempt(self, seq: Sequence) -> None:
        """Take the blocks back; the sequence is first in line to be computed again."""
        self.running.remove(seq)
        self._pool.release(seq.block_table)
        seq.block_table.clear()
        seq.num_computed_tokens = 0
        seq.timeline.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(seq)

    def _admit(self, max_running: int) -> None:
        while self.waiting and len(self.running) < max_running:
            seq = self.waiting[0]
            # The watermark leaves running sequences room to grow; alone, a sequence may take it all.
            keep_free = self.watermark_blocks if self.running else 0
            if not self._prefix.reserve(seq, len(seq.token_ids), keep_free=keep_free):
                return
            self.running.append(self.waiting.popleft())
