"""Sequences that wait for a decode worker's memory, and who enters next. Plain lists; no tensors.

1. `add` queues a sequence in `waiting`, whether its prompt runs here or is pulled from a prefill worker.
   The order is by `urgency`, then first come, first served. A preempted sequence goes to the front.
2. `next_pull` (before each step, until it returns None) lets the next pulled prompt enter.
3. `next_local` (in each step) lets the next prompt enter that runs here, or one that was preempted.
4. Both walk the one queue from its front. One that lacks room may be passed by smaller ones of its urgency,
   of either kind, MAX_PASSES times in all. One that has room, and enters by the other method, by nobody.
5. Who enters gets its blocks (`PrefixCache.reserve`); from then on whoever ends it releases them.
6. `remove` (cancel, deadline, end) forgets one that waits.

A pulled prompt that lacks credit, or a place among the pulls, holds nobody up: it needs no room yet. Nor does
a sequence that waits for the leader of its group.
"""

from collections.abc import Collection

from common.engine.memory.prefix_cache import PrefixCache
from common.engine.memory.waiting_queue import Rank, WaitingQueue
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from decode_worker.footprint import Footprint, peak_blocks
from decode_worker.output_length import OutputLengths
from decode_worker.pull_credit import PullCredit

_MOST_URGENT: Rank = ()  # sorts before every urgency


class DecodeAdmission:
    """Owns the waiting sequences. Those `running` and `arriving` belong to its callers.

    A sequence enters when its prompt fits now, all are expected to fit until they end, and the steps with it
    keep the ITL target.
    """

    def __init__(
        self,
        prefix: PrefixCache,
        lengths: OutputLengths,
        costs: Costs,
        credit: PullCredit,
        watermark: float,
    ) -> None:
        """Keep the share `watermark` of all blocks free for sequences that grow."""
        self._prefix = prefix
        self._pool = prefix.pool
        self._lengths = lengths
        self._costs = costs
        self._credit = credit
        self.watermark_blocks = int(prefix.pool.num_blocks * watermark)
        self.waiting = WaitingQueue()
        self._pulled: dict[Sequence, int] = {}  # those that wait for a pull, and their tokens
        self.num_pulled_tokens = 0

    @property
    def num_local_tokens(self) -> int:
        """Number of tokens of waiting sequences that this worker will compute itself."""
        return self.waiting.num_tokens - self.num_pulled_tokens

    def is_pulled(self, seq: Sequence) -> bool:
        """Return True if `seq` waits here for its KV to be pulled."""
        return seq in self._pulled

    def can_ever_run(self, num_tokens: int) -> bool:
        """Return True if the whole pool holds enough blocks for a sequence of this final length."""
        return self._pool.num_blocks_for(num_tokens) <= self._pool.num_blocks

    def can_admit(
        self, seq: Sequence, running: Collection[Sequence], arriving: Collection[Sequence]
    ) -> bool:
        """Return True if there is room for `seq` now and until all end, whoever else waits."""
        inside = [*running, *arriving]
        return self._can_join_step(seq, inside) and self._can_all_finish(seq, inside)

    def add(self, seq: Sequence) -> None:
        """Queue a new sequence, to be pulled if its request names a prefill worker."""
        self.waiting.append(seq)
        if seq.request.prefill_worker is not None:
            self._pulled[seq] = seq.num_uncomputed_tokens
            self.num_pulled_tokens += seq.num_uncomputed_tokens
            self._credit.want(seq)

    def add_local(self, seq: Sequence) -> None:
        """Queue a sequence whose prompt runs here, whatever its request says."""
        self.waiting.append(seq)

    def add_preempted(self, seq: Sequence) -> None:
        """Queue a sequence that lost its blocks before all others that wait here."""
        self.waiting.push_front(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a sequence, if it waits here; learn from the length of one that ended well."""
        if seq in self.waiting:
            self.waiting.remove(seq)
            self._forget_pull(seq)
        if seq.finish_reason is not None:
            self._lengths.observe(seq.sampling.max_tokens, seq.num_output_tokens)

    def next_pull(
        self, running: Collection[Sequence], arriving: Collection[Sequence]
    ) -> Sequence | None:
        """Return the next sequence to pull, with blocks for its prompt and first token.

        None ends the round: nothing waits, all pulls are in use, or the next ones lack credit or room.
        """
        if not self._pulled or len(arriving) >= self._credit.max_pulls:
            return None
        seq = self._next(running, arriving, enters_by_pull=True)
        if seq is not None:
            self._forget_pull(seq)
        return seq

    def next_local(
        self, running: Collection[Sequence], arriving: Collection[Sequence]
    ) -> Sequence | None:
        """Return the next local sequence to enter the batch, with blocks for all its tokens, or None."""
        num_inside = len(running) + len(arriving)
        if len(self.waiting) == len(self._pulled) or num_inside >= self._costs.profile.max_num_seqs:
            return None
        return self._next(running, arriving, enters_by_pull=False)

    def _next(
        self,
        running: Collection[Sequence],
        arriving: Collection[Sequence],
        *,
        enters_by_pull: bool,
    ) -> Sequence | None:
        """Walk the queue from its front (step 4 above); return the one that enters, with its blocks."""
        held_up: Rank | None = None  # nobody less urgent than this enters
        has_place = len(arriving) < self._credit.max_pulls
        allowance = self._credit.allowance()

        def needs_room(seq: Sequence) -> bool:  # and nothing else
            if self._prefix.is_led(seq):
                return False
            return seq not in self._pulled or (has_place and allowance.can_pull(seq))

        def rank(seq: Sequence) -> Rank:
            return float(not needs_room(seq)), *urgency(seq)

        def enters(seq: Sequence) -> bool:
            nonlocal held_up
            if not needs_room(seq) or (held_up is not None and held_up < urgency(seq)):
                return False
            is_due = self.is_pulled(seq) is enters_by_pull
            take_blocks = self._reserve if is_due else self._can_reserve
            has_room = self.can_admit(seq, running, arriving) and take_blocks(seq, running)
            if has_room and is_due:
                return True
            held_up = _MOST_URGENT if has_room else urgency(seq)
            return False

        return self.waiting.take(enters, rank)

    def _num_entry_tokens(self, seq: Sequence) -> int:
        """Return the positions that get blocks on entry: with a pulled prompt also its first token."""
        return len(seq.token_ids) + self.is_pulled(seq)

    def _keep_free(self, seq: Sequence, running: Collection[Sequence]) -> int:
        # The watermark leaves running sequences room to grow; alone, a sequence may take it all.
        is_alone = not (self._pool.num_held if self.is_pulled(seq) else running)
        return 0 if is_alone else self.watermark_blocks

    def _reserve(self, seq: Sequence, running: Collection[Sequence]) -> bool:
        keep_free = self._keep_free(seq, running)
        return self._prefix.reserve(seq, self._num_entry_tokens(seq), keep_free=keep_free)

    def _can_reserve(self, seq: Sequence, running: Collection[Sequence]) -> bool:
        """Return True if `_reserve` would give the blocks."""
        num_blocks = self._pool.num_blocks_for(self._num_entry_tokens(seq))
        num_new = num_blocks - self._prefix.num_held_prefix_blocks(seq)
        return self._pool.can_allocate(num_new, keep_free=self._keep_free(seq, running))

    def _forget_pull(self, seq: Sequence) -> None:
        num_tokens = self._pulled.pop(seq, None)
        if num_tokens is not None:
            self.num_pulled_tokens -= num_tokens
            self._credit.unwant(seq)

    def _can_join_step(self, seq: Sequence, inside: list[Sequence]) -> bool:
        """Return True if a step with `seq` and those `inside` keeps the batch limit and the ITL target."""
        num_positions = sum(len(s.token_ids) for s in inside) + len(seq.token_ids)
        return self._costs.profile.can_run_step(len(inside) + 1, num_positions)

    def _can_all_finish(self, seq: Sequence, inside: list[Sequence]) -> bool:
        """Return True if all are expected to fit until they end. A sequence that is alone may always try."""
        if not inside:
            return True
        footprints = [self._footprint(s, s.num_shared_blocks) for s in inside]
        # what others brought in, or nobody holds any more than by sharing, stays as it is
        num_own = sum(len(s.block_table) - s.num_shared_blocks for s in inside)
        num_apart = self._pool.num_held - num_own
        footprints.append(self._footprint(seq, self._prefix.num_held_prefix_blocks(seq)))
        peak = num_apart + peak_blocks(footprints, self._pool.block_size)
        return peak <= self._pool.num_blocks - self.watermark_blocks

    def _footprint(self, seq: Sequence, num_shared_blocks: int) -> Footprint:
        num_so_far = seq.num_output_tokens
        expected = self._lengths.expect(seq.sampling.max_tokens, num_so_far)
        return Footprint(len(seq.token_ids), expected - num_so_far, num_shared_blocks)


def urgency(seq: Sequence) -> Rank:
    """Rank sequences that have answered first, since a client is reading; then by priority."""
    return (-1.0,) if seq.has_answered else (0.0, seq.request.priority)
