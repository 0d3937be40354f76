"""Which sequences run next on a decode worker. Plain lists; no tensors, no sockets."""

from collections.abc import Collection

from common.engine.batch import Batch, BatchEntry, cut_chunks
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from decode_worker.admission import DecodeAdmission, urgency
from decode_worker.preemption import Preemption


class DecodeScheduler:
    """Continuous batching (Orca, Yu et al. 2022): sequences enter and leave at every step.

    `running` holds sequences with blocks, oldest first: those that decode, and those whose prompt (or
    recomputation) still has chunks to run here. Every step takes all decode tokens first; chunks get what the
    token budget and the ITL target leave. When a sequence cannot grow although its admission expected it,
    the newest of the least urgent ones is preempted. The last sequence never is: it waits for the blocks
    that arriving KV holds.
    """

    def __init__(
        self, prefix: PrefixCache, admission: DecodeAdmission, preemption: Preemption, costs: Costs
    ) -> None:
        self._prefix = prefix
        self._pool = prefix.pool
        self._costs = costs
        self.admission = admission
        self.preemption = preemption
        self.running: list[Sequence] = []

    @property
    def num_waiting_tokens(self) -> int:
        """Number of tokens that this worker still has to run as prefill."""
        numbers = [seq.num_uncomputed_tokens for seq in self.running]
        return self.admission.num_local_tokens + sum([number for number in numbers if number > 1])

    def can_grow(self) -> bool:
        """Return True if every running sequence gets the block of its next token without a preemption."""
        missing = (self._num_missing_blocks(seq) for seq in self.running)
        return self._pool.can_allocate(sum(n for n in missing if n > 0))

    def next_pull(self, arriving: Collection[Sequence]) -> Sequence | None:
        """Return the next sequence to pull, with its blocks, or None; see DecodeAdmission.next_pull."""
        return self.admission.next_pull(self.running, arriving)

    def join(self, seq: Sequence) -> None:
        """Take a sequence that holds its blocks already into the running batch."""
        self.running.append(seq)

    def remove(self, seq: Sequence) -> None:
        """Forget a sequence, wherever it is; the caller releases its blocks."""
        if seq in self.running:
            self.running.remove(seq)
        self.admission.remove(seq)
        self.preemption.forget(seq)

    def schedule(self, arriving: Collection[Sequence] = ()) -> Batch | None:
        """Return the next step's batch, None when there is nothing to run.

        The batch keeps places for the `arriving` sequences, which hold blocks already.
        """
        stalled = self._grow_running()
        while (seq := self.admission.next_local(self.running, arriving)) is not None:
            self.preemption.bring_back(seq)
            self.running.append(seq)
        ready = [seq for seq in self.running if seq is not stalled]
        decoding = [BatchEntry(s, 1) for s in ready if s.num_uncomputed_tokens == 1 or s.runs_ahead]
        filling = sorted((s for s in ready if s.num_uncomputed_tokens > 1), key=urgency)
        entries = decoding + cut_chunks(filling, self._prompt_budget(decoding, filling))
        return Batch(tuple(entries)) if entries else None

    def _grow_running(self) -> Sequence | None:
        """Give every running sequence the block of its next token, oldest first.

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

    def _preempt(self, seq: Sequence) -> None:
        """Take the blocks back; the sequence is first in line to go on."""
        self.running.remove(seq)
        self.preemption.set_aside(seq, self._prefix.num_shared_tokens(seq))
        self._prefix.release(seq)
        timeline = seq.timeline
        timeline.num_tokens_run = max(timeline.num_tokens_run, seq.num_computed_tokens)
        seq.num_computed_tokens = 0
        timeline.num_preemptions += 1
        self.admission.add_preempted(seq)
