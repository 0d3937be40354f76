"""Which sequences run next on a decode worker. Plain lists; no tensors, no sockets."""

from collections.abc import Callable, Collection

from common.engine.batch import Batch, BatchEntry, cut_chunks
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.memory.waiting_queue import Rank, WaitingQueue
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from decode_worker.footprint import Footprint, peak_blocks
from decode_worker.output_length import OutputLengths
from decode_worker.preemption import Preemption


class DecodeScheduler:
    """Continuous batching (Orca, Yu et al. 2022): sequences enter and leave at every step.

    `running` holds sequences with blocks, oldest first: those that decode, and those whose prompt (or
    recomputation) still has chunks to run here. Every step takes all decode tokens first and gives to chunks
    what the token budget and the ITL target leave. A sequence enters when its prompt fits now, the batch is
    expected to fit until its sequences end, and its steps keep the ITL target. When one cannot grow all the
    same, the newest is preempted, of the least urgent ones; the last one never is: with nobody else running
    it waits for blocks that arriving KV holds.
    """

    def __init__(
        self,
        prefix: PrefixCache,
        lengths: OutputLengths,
        preemption: Preemption,
        costs: Costs,
        watermark: float,
    ) -> None:
        self._prefix = prefix
        self._pool = prefix.pool
        self._lengths = lengths
        self.preemption = preemption
        self._costs = costs
        self.watermark_blocks = int(prefix.pool.num_blocks * watermark)
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens that this worker still has to run as prefill."""
        numbers = [seq.num_uncomputed_tokens for seq in self.running]
        return self.waiting.num_tokens + sum([number for number in numbers if number > 1])

    def can_admit(self, seq: Sequence, arriving: Collection[Sequence]) -> bool:
        """Return True if a pull of `seq` may start now, beside the `arriving` ones.

        False while a sequence that came sooner, or lost its blocks, waits here for room. One that waits for
        the leader of its group holds nobody up.
        """
        in_need = (s for s in self.waiting if not self._prefix.is_led(s))
        first = min(in_need, key=urgency, default=None)
        if first is not None and in_turn(first) <= in_turn(seq):
            return False
        return self._can_join_step(seq, arriving) and self._can_all_finish(seq, arriving)

    def can_ever_run(self, num_tokens: int) -> bool:
        """Return True if the whole pool holds enough blocks for a sequence of this final length."""
        return self._pool.num_blocks_for(num_tokens) <= self._pool.num_blocks

    def can_grow(self) -> bool:
        """Return True if every running sequence gets the block of its next token without a preemption."""
        missing = (self._num_missing_blocks(seq) for seq in self.running)
        return self._pool.can_allocate(sum(n for n in missing if n > 0))

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
        self.preemption.forget(seq)
        if seq.finish_reason is not None:
            self._lengths.observe(seq.sampling.max_tokens, seq.num_output_tokens)

    def schedule(
        self,
        arriving: Collection[Sequence] = (),
        must_yield: Callable[[Sequence], bool] = lambda _: False,
    ) -> Batch | None:
        """The next step's batch, None when there is nothing to run.

        The batch keeps slots for the `arriving` sequences, which hold blocks already. One that waits enters
        only if it need not yield to another, which is to set out for here.
        """
        stalled = self._grow_running()
        self._admit(arriving, must_yield)
        ready = [seq for seq in self.running if seq is not stalled]
        decoding = [BatchEntry(s, 1) for s in ready if s.num_uncomputed_tokens == 1 or s.runs_ahead]
        filling = sorted((s for s in ready if s.num_uncomputed_tokens > 1), key=urgency)
        entries = decoding + cut_chunks(filling, self._prompt_budget(decoding, filling))
        return Batch(tuple(entries)) if entries else None

    def _grow_running(self) -> Sequence | None:
        """Give every running sequence the block its next token needs, oldest first.

        Returns the one sequence that has to sit this step out, if any.
        """
        position, block_size = 0, self._pool.block_size
        while position < len(self.running):
            seq = self.running[position]
            if seq.num_computed_tokens < len(seq.block_table) * block_size:
                position += 1
                continue
            missing = self._num_missing_blocks(seq)
            if self._pool.can_allocate(missing):
                seq.block_table.extend(self._pool.allocate(missing))
            elif len(self.running) == 1:
                return seq
            else:
                newest, victim = max(
                    enumerate(self.running), key=lambda place: (place[1].request.priority, place[0])
                )
                self._preempt(victim)
                position -= newest < position
        return None

    def _num_missing_blocks(self, seq: Sequence) -> int:
        # a prompt got the blocks of all its tokens when it entered: only the next token may lack one
        return self._pool.num_blocks_for(seq.num_computed_tokens + 1) - len(seq.block_table)

    def _prompt_budget(self, decoding: list[BatchEntry], filling: list[Sequence]) -> int:
        if not filling:
            return 0
        num_positions = sum(entry.seq.num_computed_tokens for entry in decoding)
        start = filling[0].num_computed_tokens
        return self._costs.profile.prompt_budget(len(decoding), num_positions, start)

    def _can_join_step(self, seq: Sequence, arriving: Collection[Sequence]) -> bool:
        """Return True if the step stays within max_num_seqs and the ITL target with `seq` in it."""
        inside = (*self.running, *arriving, seq)
        num_positions = sum(len(s.token_ids) for s in inside)
        return self._costs.profile.can_run_step(len(inside), num_positions)

    def _preempt(self, seq: Sequence) -> None:
        """Take the blocks back; the sequence is first in line to go on."""
        self.running.remove(seq)
        self.preemption.set_aside(seq, self._prefix.num_shared_tokens(seq))
        self._prefix.release(seq)
        seq.num_computed_tokens = 0
        seq.timeline.num_preemptions += 1
        self.waiting.push_front(seq)

    def _admit(
        self, arriving: Collection[Sequence], must_yield: Callable[[Sequence], bool]
    ) -> None:
        def enters(seq: Sequence) -> bool:
            # The watermark leaves running sequences room to grow; alone, a sequence may take it all.
            keep_free = self.watermark_blocks if self.running else 0
            if must_yield(seq):
                return False
            can_enter = self._can_join_step(seq, arriving) and self._can_all_finish(seq, arriving)
            return can_enter and self._prefix.reserve(seq, len(seq.token_ids), keep_free=keep_free)

        while self.waiting and len(self.running) + len(arriving) < self._costs.profile.max_num_seqs:
            seq = self.waiting.take(enters, urgency)
            if seq is None:
                return
            self.preemption.bring_back(seq)
            self.running.append(seq)

    def _can_all_finish(self, seq: Sequence, arriving: Collection[Sequence]) -> bool:
        """Return True if blocks are expected to last until all end. Alone, a sequence always may try."""
        inside = [*self.running, *arriving]
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
    """Those that have answered already first, since a client is reading; then by priority."""
    return (-1.0,) if seq.num_output_tokens else (0.0, seq.request.priority)


def in_turn(seq: Sequence) -> tuple[Rank, float]:
    """Who goes first of those that wait here and those whose prompts run elsewhere."""
    return urgency(seq), seq.timeline.arrival_s
