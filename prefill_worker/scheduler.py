"""Which prompts run next on a prefill worker. Plain lists; no tensors, no sockets."""

from collections.abc import Callable, Iterator

from common.engine.batch import Batch, BatchEntry, cut_chunks
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.memory.waiting_queue import WaitingQueue
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.ledger import HolderState
from prefill_worker.order import PrefillOrder, Rank


class PrefillScheduler:
    """Chooses prompts in the order of PrefillOrder, ranked anew at every step, under a token budget.

    Several prompts share a step. A long prompt is cut into chunks, between which others may go first; its
    last chunk is tapered where that pays (WorkerProfile.tail).
    A prompt is admitted with blocks for all of it, so that no half-run prompt ever waits for memory. One
    that does not fit lets smaller ones pass, with ageing (WaitingQueue). Nothing here grows, so nothing is
    ever preempted.
    """

    def __init__(self, prefix: PrefixCache, order: PrefillOrder, costs: Costs) -> None:
        self._prefix = prefix
        self._order = order
        self._pool = prefix.pool
        self._costs = costs
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []

    @property
    def num_waiting_tokens(self) -> int:
        """Number of prompt tokens still to compute, admitted or not."""
        return self.waiting.num_tokens + sum(seq.num_uncomputed_tokens for seq in self.running)

    def can_ever_run(self, num_tokens: int) -> bool:
        """Return True if the whole pool holds enough blocks for a prompt of this length."""
        return self._pool.num_blocks_for(num_tokens) <= self._pool.num_blocks

    def add(self, seq: Sequence) -> None:
        """Queue a new prompt."""
        self.waiting.append(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a prompt, wherever it is, and release its blocks."""
        if seq in self.running:
            self.running.remove(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)
        self._prefix.release(seq)

    def holder_state(self, seq: Sequence) -> HolderState:
        """Return why a live prompt holds blocks, or holds none.

        A prompt whose grammar is being compiled is in no queue yet and holds nothing.
        """
        if not seq.block_table:
            return HolderState.QUEUED
        return HolderState.PREFILLING if seq in self.running else HolderState.SENDING

    def schedule(self, now_s: float) -> Batch | None:
        """Return the next step's chunks, or None; `now_s` is on the clock of `seq.timeline.arrival_s`."""

        def rank(seq: Sequence) -> Rank:
            return self._order.rank(seq, now_s)

        budget = self._costs.profile.max_batch_tokens
        entries = cut_chunks(self._in_order(rank), budget, self._taper)
        return Batch(tuple(entries)) if entries else None

    def _taper(self, entry: BatchEntry) -> BatchEntry:
        """Shorten a prompt's last chunk by its tail, so that little KV is left to send at the end."""
        if not entry.samples:
            return entry
        seq = entry.seq
        num_done = seq.num_computed_tokens
        if num_done == seq.timeline.num_cached_tokens:
            num_done = 0  # a cached prefix leaves with the first chunk
        num_late = seq.num_given_tokens - max(num_done, seq.request.num_held_tokens)
        tail = self._costs.profile.tail(entry.num_tokens, num_late)
        return BatchEntry(seq, entry.num_tokens - tail) if tail else entry

    def _in_order(self, rank: Callable[[Sequence], Rank]) -> Iterator[Sequence]:
        """Yield prompts in order; each is admitted only when asked for, as others would just hold memory."""
        for started in (*sorted(self.running, key=rank), None):
            while (seq := self._admit_before(started, rank)) is not None:
                yield seq
            if started is not None:
                yield started

    def _admit_before(
        self, started: Sequence | None, rank: Callable[[Sequence], Rank]
    ) -> Sequence | None:
        """Admit the waiting prompt that goes before the started one, if there is one and it fits."""
        if not self.waiting or len(self.running) >= self._costs.profile.max_num_seqs:
            return None

        def enters(seq: Sequence) -> bool:
            goes_first = started is None or rank(seq) < rank(started)
            return goes_first and self._prefix.reserve(seq, seq.num_given_tokens)

        seq = self.waiting.take(enters, rank)
        if seq is not None:
            self.running.append(seq)
        return seq
