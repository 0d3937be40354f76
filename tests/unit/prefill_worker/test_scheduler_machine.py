"""Scheduler and pool through any order of prompts, cancels and steps."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.profile import WorkerProfile
from prefill_worker.order import PrefillOrder
from prefill_worker.scheduler import PrefillScheduler
from tests.examples import examples
from tests.unit.common.engine.block_contents import BlockContents
from tests.unit.common.engine.sequences import make_sequence

NUM_BLOCKS, BLOCK_SIZE, BUDGET, MAX_SEQS = 12, 4, 10, 3


class PrefillMachine(RuleBasedStateMachine):
    """Machine of one scheduler; `live` holds the prompts neither cancelled nor done, by arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, BLOCK_SIZE)
        self.prefix = PrefixCache(self.pool, "model")
        self.order = PrefillOrder(lambda seq: float(seq.num_uncomputed_tokens))
        profile = WorkerProfile(max_batch_tokens=BUDGET, max_num_seqs=MAX_SEQS)
        self.scheduler = PrefillScheduler(self.prefix, self.order, Costs(profile))
        self.now_s = 0.0
        self.contents = BlockContents(BLOCK_SIZE)
        self.live: list[Sequence] = []

    @rule(first=st.integers(1, 2), num_tokens=st.integers(1, NUM_BLOCKS * BLOCK_SIZE))
    def add(self, first: int, num_tokens: int) -> None:
        """Add a prompt; those of the same first token begin alike and share blocks."""
        seq = make_sequence(range(first, first + num_tokens))
        seq.timeline.arrival_s = self.now_s
        self.scheduler.add(seq)
        self.live.append(seq)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.live)))

    @rule()
    def step(self) -> None:
        self.now_s += 1.0
        before = list(self.scheduler.running)
        batch = self.scheduler.schedule(self.now_s)
        assert (batch is None) == (not self.live)
        if batch is None:
            return
        assert 1 <= batch.num_tokens <= BUDGET
        assert len(batch.entries) <= MAX_SEQS
        started = [entry.seq for entry in batch.entries if entry.seq in before]
        ranks = [self.order.rank(seq, self.now_s) for seq in started]
        assert ranks == sorted(ranks)
        # only the last is cut
        assert all(entry.samples for entry in batch.entries[:-1])
        for entry in batch.entries:
            self.contents.run(entry.seq, entry.num_tokens)
        for entry in batch.entries:
            entry.seq.num_computed_tokens += entry.num_tokens
            self.prefix.publish(entry.seq)
            capacity = len(entry.seq.block_table) * BLOCK_SIZE
            assert entry.seq.num_prompt_tokens <= capacity
        for entry in batch.entries:
            if not entry.seq.num_uncomputed_tokens:
                self._end(entry.seq)

    def _end(self, seq: Sequence) -> None:
        self.scheduler.remove(seq)
        self.live.remove(seq)

    @invariant()
    def every_held_block_has_one_live_holder(self) -> None:
        self.pool.check_integrity([block for seq in self.live for block in seq.block_table])

    @invariant()
    def only_running_prompts_hold_blocks(self) -> None:
        assert not any(seq.block_table for seq in self.scheduler.waiting)
        everywhere = [*self.scheduler.running, *self.scheduler.waiting]
        assert sorted(map(id, everywhere)) == sorted(map(id, self.live))

    def teardown(self) -> None:
        """Check that all finish when left alone: every step runs at least one token."""
        for _ in range(sum(seq.num_uncomputed_tokens for seq in self.live)):
            self.step()
        assert not self.live
        self.pool.check_integrity([])


TestPrefillMachine = PrefillMachine.TestCase
TestPrefillMachine.settings = settings(
    deadline=None, derandomize=True, max_examples=examples(30), stateful_step_count=40
)
