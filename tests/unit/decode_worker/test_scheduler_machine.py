"""Scheduler and pool through any order of arrivals, growth, cancels, failures and pressure."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.engine.batch import Batch
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.kv_transfer.node_store import FixedStore
from common.profile import WorkerProfile
from decode_worker.admission import DecodeAdmission
from decode_worker.output_length import OutputLengths
from decode_worker.preemption import Preemption
from decode_worker.scheduler import DecodeScheduler
from tests.examples import examples
from tests.unit.common.engine.block_contents import BlockContents
from tests.unit.common.engine.sequences import NO_EOS, make_sequence
from tests.unit.decode_worker.host_memory import ContentsMemory
from tests.unit.decode_worker.pulls import make_credit, pulled

NUM_BLOCKS, BLOCK_SIZE, BUDGET, MAX_SEQS, MAX_ARRIVING = 14, 4, 4, 3, 2
CAPACITY = NUM_BLOCKS * BLOCK_SIZE


class DecodeMachine(RuleBasedStateMachine):
    """Machine of one scheduler; `arriving` sequences hold blocks while their KV is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, BLOCK_SIZE)
        self.prefix = PrefixCache(self.pool, "model")
        self.contents = BlockContents(BLOCK_SIZE)
        self.memory = ContentsMemory(self.contents, self.prefix, max_sequences=1)
        costs = Costs(WorkerProfile(max_batch_tokens=BUDGET, max_num_seqs=MAX_SEQS))
        # a pull costs at most 4 tokens of 8 bytes, so that the second one may lack credit
        self.credit = make_credit(MAX_ARRIVING, FixedStore(48))
        lengths = OutputLengths(prior_tokens=4)
        admission = DecodeAdmission(self.prefix, lengths, costs, self.credit, watermark=0.1)
        preemption = Preemption("swap", costs, self.memory)
        self.scheduler = DecodeScheduler(self.prefix, admission, preemption, costs)
        self.live: list[Sequence] = []
        self.arriving: dict[Sequence, int] = {}  # and their charge
        self.num_submitted = 0

    @rule(
        first=st.integers(8, 10),
        prompt=st.integers(1, 40),
        max_tokens=st.integers(1, 30),
        priority=st.integers(-1, 1),
    )
    def submit(self, first: int, prompt: int, max_tokens: int, priority: int) -> None:
        """Add a prompt that runs here; those of the same first token begin alike and share blocks."""
        tokens = range(first, first + prompt)
        self._add(make_sequence(tokens, max_tokens=max_tokens, priority=priority))

    @rule(prompt=st.integers(1, 40), max_tokens=st.integers(2, 30), priority=st.integers(-1, 1))
    def pull(self, prompt: int, max_tokens: int, priority: int) -> None:
        """Add a prompt that a prefill worker runs."""
        self._add(pulled(make_sequence(prompt, max_tokens=max_tokens, priority=priority)))

    def _add(self, seq: Sequence) -> None:
        self.num_submitted += 1
        seq.timeline.arrival_s = float(self.num_submitted)
        num_tokens = seq.num_prompt_tokens + seq.sampling.max_tokens
        if self.scheduler.admission.can_ever_run(num_tokens):
            self.scheduler.admission.add(seq)
            self.live.append(seq)
        else:
            assert num_tokens > CAPACITY

    @rule()
    def start_pulls(self) -> None:
        """Start all pulls that may start; each gets its blocks, and a charge as in the inbox."""
        while (seq := self.scheduler.next_pull(self.arriving)) is not None:
            assert len(seq.block_table) == self.pool.num_blocks_for(seq.num_prompt_tokens + 1)
            assert not self.arriving or self.credit.can_pull(seq)
            self.arriving[seq] = self.credit.cost(seq)
            self.credit.taken_bytes += self.arriving[seq]

    @precondition(lambda self: self.arriving)
    @rule(computed=st.integers(0, 40), has_token=st.booleans())
    def arrive(self, computed: int, has_token: bool) -> None:
        """Deliver all KV and token 1, or the part of it that came before the transfer failed."""
        seq = next(iter(self.arriving))
        self.credit.taken_bytes -= self.arriving.pop(seq)
        if has_token:
            seq.append(9, NO_EOS)
        end = max(min(computed, len(seq.token_ids) - 1), seq.num_computed_tokens)
        self.contents.run(seq, end - seq.num_computed_tokens)
        seq.num_computed_tokens = end
        self.prefix.publish(seq)
        self.scheduler.join(seq)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.live)))

    @rule()
    def step(self) -> None:
        self.start_pulls()
        before = list(self.scheduler.running)
        batch = self.scheduler.schedule(self.arriving)
        if before:
            # of the most urgent ones the oldest is never preempted
            assert min(before, key=lambda seq: seq.request.priority) in self.scheduler.running
        if batch is None:
            assert self.arriving or not self.live
            return
        self._check(batch)
        for entry in batch.entries:
            self.contents.run(entry.seq, entry.num_tokens)
        for entry in batch.entries:
            samples = entry.samples
            entry.seq.num_computed_tokens += entry.num_tokens
            self.prefix.publish(entry.seq)
            if samples:
                entry.seq.append(9, NO_EOS)
        for seq in [entry.seq for entry in batch.entries if entry.seq.is_finished]:
            self._end(seq)

    def _check(self, batch: Batch) -> None:
        sizes = [entry.num_tokens for entry in batch.entries]
        decoding = [entry.seq.num_uncomputed_tokens == 1 for entry in batch.entries]
        assert batch.num_tokens <= BUDGET
        assert all(sizes)
        assert len({id(entry.seq) for entry in batch.entries}) == len(sizes)
        assert decoding == sorted(decoding, reverse=True)  # decode tokens come first
        ready = [s for s in self.scheduler.running if s.num_uncomputed_tokens == 1]
        assert sum(decoding) >= len(ready) - 1  # one may wait for blocks, none for chunks
        for entry in batch.entries:
            needed = entry.seq.num_computed_tokens + entry.num_tokens
            assert needed <= len(entry.seq.block_table) * BLOCK_SIZE

    def _end(self, seq: Sequence) -> None:
        self.live.remove(seq)
        self.credit.taken_bytes -= self.arriving.pop(seq, 0)
        self.scheduler.remove(seq)
        self.pool.release(seq.block_table)
        seq.block_table.clear()

    @invariant()
    def every_held_block_has_one_live_holder(self) -> None:
        self.pool.check_integrity([block for seq in self.live for block in seq.block_table])
        admission = self.scheduler.admission
        local = {seq for seq in admission.waiting if not admission.is_pulled(seq)}
        assert set(self.memory.lengths) <= local

    @invariant()
    def the_batch_has_a_slot_for_everybody_on_the_way(self) -> None:
        assert len(self.scheduler.running) + len(self.arriving) <= MAX_SEQS

    @invariant()
    def every_live_sequence_stands_in_one_place(self) -> None:
        waiting = self.scheduler.admission.waiting
        places = [*self.arriving, *self.scheduler.running, *waiting]
        assert sorted(map(id, places)) == sorted(map(id, self.live))
        assert not any(seq.block_table for seq in waiting)

    @invariant()
    def credit_is_wanted_by_those_that_wait_and_taken_by_those_on_the_way(self) -> None:
        admission = self.scheduler.admission
        to_pull = [seq for seq in admission.waiting if admission.is_pulled(seq)]
        assert self.credit.wanted_bytes == sum(map(self.credit.cost, to_pull))
        assert admission.num_pulled_tokens == sum(seq.num_uncomputed_tokens for seq in to_pull)
        assert self.credit.taken_bytes == sum(self.arriving.values())

    def teardown(self) -> None:
        """Check that all finish once all KV has arrived; recomputation costs steps, but not for ever."""
        for _ in range(len(self.live) * 2 * CAPACITY):
            self.step()
            while self.arriving:
                self.arrive(computed=3, has_token=False)
        assert not self.live
        self.pool.check_integrity([])


TestDecodeMachine = DecodeMachine.TestCase
TestDecodeMachine.settings = settings(
    deadline=None, derandomize=True, max_examples=examples(50), stateful_step_count=50
)
