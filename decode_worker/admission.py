"""Sequences that wait for a decode worker's memory, and who enters next. Plain lists; no tensors.

1. `add` queues a sequence: in `local` if its prompt runs here, in `to_pull` if a prefill worker runs it.
   A preempted sequence goes to the front of `local`. Both lanes share one order, `in_turn`.
2. `next_pull` (before each step, until it returns None) lets the next pull enter: credit, a place and memory
   are there, and no local sequence that comes before it waits for room.
3. `next_local` (in each step) lets the next local sequence enter. It yields to an earlier pull that waits
   for room (`must_yield`) if that is more urgent, or was refused MAX_PASSES rounds in a row.
4. Who enters gets its blocks (`PrefixCache.reserve`); from then on whoever ends it releases them.
5. `remove` (cancel, deadline, end) forgets one that waits.

A sequence that lacks credit, or waits for the leader of its group, holds nobody up: it needs no room yet.
"""

from collections.abc import Collection

from common.engine.memory.prefix_cache import PrefixCache
from common.engine.memory.waiting_queue import MAX_PASSES, Rank, WaitingQueue
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from decode_worker.footprint import Footprint, peak_blocks
from decode_worker.output_length import OutputLengths
from decode_worker.pull_credit import PullCredit


class DecodeAdmission:
    """Owns both lanes of waiting sequences. Those `running` and `arriving` belong to its callers.

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
        self.local = WaitingQueue()
        self.to_pull = WaitingQueue()
        self._refused: list[Sequence] = []  # pulls without room, in this round
        self._held_up: Sequence | None = (
            None  # the first pull in turn, if the last round refused it
        )
        self._num_refusals = 0  # of that one, in consecutive rounds

    @property
    def num_waiting(self) -> int:
        """Number of sequences in both lanes."""
        return len(self.local) + len(self.to_pull)

    def can_ever_run(self, num_tokens: int) -> bool:
        """Return True if the whole pool holds enough blocks for a sequence of this final length."""
        return self._pool.num_blocks_for(num_tokens) <= self._pool.num_blocks

    def can_admit(
        self, seq: Sequence, running: Collection[Sequence], arriving: Collection[Sequence]
    ) -> bool:
        """Return True if a pull of `seq` may start now, beside the `arriving` ones.

        False while a sequence that came sooner, or lost its blocks, waits here for room.
        """
        in_need = (s for s in self.local if not self._prefix.is_led(s))
        first = min(in_need, key=urgency, default=None)
        if first is not None and in_turn(first) <= in_turn(seq):
            return False
        return self._has_room(seq, running, arriving)

    def must_yield(self, seq: Sequence) -> bool:
        """Return True if the first pull, which waits for room and nothing else, enters before `seq`."""
        first = self._held_up
        if first is None or in_turn(first) >= in_turn(seq):
            return False
        return self._num_refusals >= MAX_PASSES or urgency(first) < urgency(seq)

    def add(self, seq: Sequence) -> None:
        """Queue a new sequence where its request says that the prompt runs."""
        if seq.request.prefill_worker is None:
            self.add_local(seq)
        else:
            self.to_pull.append(seq)
            self._credit.want(seq)

    def add_local(self, seq: Sequence) -> None:
        """Queue a sequence whose prompt runs here, whatever its request says."""
        self.local.append(seq)

    def add_preempted(self, seq: Sequence) -> None:
        """Queue a sequence that lost its blocks before all others that wait here."""
        self.local.push_front(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a sequence, if it waits here; learn from the length of one that ended well."""
        if seq in self.local:
            self.local.remove(seq)
        elif seq in self.to_pull:
            self.to_pull.remove(seq)
            self._credit.unwant(seq)
        if seq.finish_reason is not None:
            self._lengths.observe(seq.sampling.max_tokens, seq.num_output_tokens)

    def next_pull(
        self, running: Collection[Sequence], arriving: Collection[Sequence]
    ) -> Sequence | None:
        """Return the next sequence to pull, with blocks for its prompt and first token.

        None ends the round: nothing waits, all pulls are in use, or the next ones lack credit or room.
        """

        def enters(seq: Sequence) -> bool:
            if not self._credit.can_pull(seq):
                return False
            keep_free = self.watermark_blocks if self._pool.num_held else 0
            if self.can_admit(seq, running, arriving) and self._prefix.reserve(
                seq, seq.num_given_tokens + 1, keep_free=keep_free
            ):
                return True
            self._refused.append(seq)
            return False

        if self.to_pull and len(arriving) < self._credit.max_pulls:
            seq = self.to_pull.take(enters, urgency)
            if seq is not None:
                self._credit.unwant(seq)
                return seq
        self._end_round()
        return None

    def next_local(
        self, running: Collection[Sequence], arriving: Collection[Sequence]
    ) -> Sequence | None:
        """Return the next local sequence to enter the batch, with blocks for all its tokens, or None."""

        def enters(seq: Sequence) -> bool:
            # The watermark leaves running sequences room to grow; alone, a sequence may take it all.
            keep_free = self.watermark_blocks if running else 0
            if self.must_yield(seq) or not self._has_room(seq, running, arriving):
                return False
            return self._prefix.reserve(seq, len(seq.token_ids), keep_free=keep_free)

        num_inside = len(running) + len(arriving)
        if not self.local or num_inside >= self._costs.profile.max_num_seqs:
            return None
        return self.local.take(enters, urgency)

    def _end_round(self) -> None:
        """Note which pull the round held up: the first in turn, if it was asked and refused for room."""
        refused, self._refused = self._refused, []
        if not refused:
            self._held_up = None
            return
        in_need = (seq for seq in self.to_pull if not self._prefix.is_led(seq))
        first = min(in_need, key=in_turn, default=None)
        if first not in refused:
            first = None
        self._num_refusals = self._num_refusals + 1 if first is self._held_up else 1
        self._held_up = first

    def _has_room(
        self, seq: Sequence, running: Collection[Sequence], arriving: Collection[Sequence]
    ) -> bool:
        inside = [*running, *arriving]
        return self._can_join_step(seq, inside) and self._can_all_finish(seq, inside)

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
    return (-1.0,) if seq.num_output_tokens else (0.0, seq.request.priority)


def in_turn(seq: Sequence) -> tuple[Rank, float]:
    """Rank sequences of both lanes: by urgency, then by arrival."""
    return urgency(seq), seq.timeline.arrival_s
