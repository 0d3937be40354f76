from common.engine.batch import Batch
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.profile import WorkerProfile
from prefill_worker.order import PrefillOrder
from prefill_worker.scheduler import PrefillScheduler
from tests.unit.common.engine.sequences import NO_EOS, make_sequence

BLOCK_SIZE, NOW_S = 4, 1e6


def make(
    *prompts: int,
    num_blocks: int = 20,
    budget: int = 16,
    max_num_seqs: int = 8,
    profile: WorkerProfile | None = None,
) -> tuple[PrefillScheduler, BlockPool, list[Sequence]]:
    pool = BlockPool(num_blocks, BLOCK_SIZE)
    """Each prompt came so long before the next that none may pass."""
    order = PrefillOrder(lambda seq: float(seq.num_uncomputed_tokens))
    profile = profile or WorkerProfile(max_batch_tokens=budget, max_num_seqs=max_num_seqs)
    scheduler = PrefillScheduler(PrefixCache(pool, "model"), order, Costs(profile))
    sequences = [make_sequence(prompt) for prompt in prompts]
    for place, seq in enumerate(sequences):
        seq.timeline.arrival_s = 1000.0 * place
        scheduler.add(seq)
    return scheduler, pool, sequences


def run(scheduler: PrefillScheduler, sequences: list[Sequence]) -> list[tuple[int, int]]:
    """Run one step as the engine does; return (prompt, tokens) in the batch's order."""
    batch: Batch | None = scheduler.schedule(NOW_S)
    if batch is None:
        return []
    for entry in batch.entries:
        entry.seq.num_computed_tokens += entry.num_tokens
    for entry in batch.entries:
        if not entry.seq.num_uncomputed_tokens:
            scheduler.remove(entry.seq)
    return [(sequences.index(entry.seq), entry.num_tokens) for entry in batch.entries]


def test_nothing_to_do() -> None:
    scheduler, _, _ = make()
    assert scheduler.schedule(NOW_S) is None


def test_the_last_chunk_is_tapered_where_its_copies_outlast_a_further_step() -> None:
    """A step takes 10 seconds and 1 a row; a token's KV 1 to copy each way: 5 tokens take a decode step."""
    profile = WorkerProfile(
        (1, 101), (11.0, 111.0), 0.0, 0.0, 0.0, 1.0, 1.0, kv_bytes_per_token=1, max_batch_tokens=40
    )
    scheduler, _, sequences = make(62, num_blocks=30, profile=profile)
    assert [run(scheduler, sequences) for _ in range(3)] == [[(0, 40)], [(0, 6)], [(0, 16)]]
    # 4 x 2 seconds saved by a step of 10 more
    scheduler, _, sequences = make(60, num_blocks=30, profile=profile)
    assert [run(scheduler, sequences) for _ in range(3)] == [[(0, 40)], [(0, 20)], []]
    # one step would do
    scheduler, _, sequences = make(30, num_blocks=30, profile=profile)
    assert [run(scheduler, sequences) for _ in range(2)] == [[(0, 14)], [(0, 16)]]


def test_several_prompts_share_a_step() -> None:
    scheduler, pool, sequences = make(5, 3, 8)
    assert run(scheduler, sequences) == [(0, 5), (1, 3), (2, 8)]
    assert pool.num_held == 0
    assert scheduler.schedule(NOW_S) is None


def test_a_long_prompt_is_cut_and_the_next_one_fills_its_last_step() -> None:
    scheduler, _, sequences = make(37, 6)
    steps = [run(scheduler, sequences) for _ in range(3)]
    assert steps == [[(0, 16)], [(0, 16)], [(0, 5), (1, 6)]]


def test_the_budget_is_never_exceeded_and_always_used() -> None:
    scheduler, _, sequences = make(10, 10, 10)
    assert run(scheduler, sequences) == [(0, 10), (1, 6)]
    assert run(scheduler, sequences) == [(1, 4), (2, 10)]
    assert run(scheduler, sequences) == []


def test_a_prompt_is_admitted_with_blocks_for_all_of_it() -> None:
    scheduler, pool, (seq,) = make(37)
    scheduler.schedule(NOW_S)
    assert len(seq.block_table) == 10
    assert pool.num_held == 10


def test_prompts_that_the_step_cannot_start_hold_no_memory() -> None:
    scheduler, pool, sequences = make(16, 4)
    scheduler.schedule(NOW_S)
    assert sequences[1].block_table == []
    assert pool.num_held == 4
    assert (len(scheduler.running), len(scheduler.waiting)) == (1, 1)


def test_no_more_run_at_once_than_allowed() -> None:
    scheduler, _, sequences = make(1, 1, 1, max_num_seqs=2)
    assert run(scheduler, sequences) == [(0, 1), (1, 1)]
    assert run(scheduler, sequences) == [(2, 1)]


def test_a_prompt_that_lacks_memory_waits_and_lets_a_smaller_one_pass() -> None:
    """There are 9 blocks: the first takes 5, the second wants 8, the third fits, the fourth would not."""
    scheduler, pool, sequences = make(18, 30, 2, 18, num_blocks=9)
    assert run(scheduler, sequences) == [(0, 16)]
    assert run(scheduler, sequences) == [(0, 2), (2, 2)]
    assert pool.num_held == 0
    assert run(scheduler, sequences) == [(1, 16)]
    assert run(scheduler, sequences)[0] == (1, 14)


def test_a_removed_prompt_gives_its_blocks_back_wherever_it_stands() -> None:
    scheduler, pool, (running, waiting) = make(40, 40, num_blocks=12)
    scheduler.schedule(NOW_S)
    assert pool.num_held == 10
    scheduler.remove(waiting)
    scheduler.remove(running)
    scheduler.remove(running)
    assert (pool.num_held, len(scheduler.running), len(scheduler.waiting)) == (0, 0, 0)
    assert running.block_table == []
    pool.check_integrity([])


def test_waiting_tokens_are_those_not_computed_yet() -> None:
    scheduler, _, sequences = make(37, 6)
    assert scheduler.num_waiting_tokens == 43
    run(scheduler, sequences)
    assert scheduler.num_waiting_tokens == 27


def test_a_prompt_that_can_never_run_is_known_beforehand() -> None:
    scheduler, _, _ = make(num_blocks=3)
    assert scheduler.can_ever_run(12)
    assert not scheduler.can_ever_run(13)


def test_a_prompt_keeps_its_blocks_while_its_last_chunk_is_sampled() -> None:
    """The engine copies KV out after it has appended token 1."""
    scheduler, pool, (seq,) = make(6)
    scheduler.schedule(NOW_S)
    seq.num_computed_tokens = 6
    seq.append(9, NO_EOS)
    assert len(seq.block_table) == 2
    pool.check_integrity(seq.block_table)


def test_what_a_tapered_chunk_leaves_goes_to_the_next_prompt() -> None:
    """A prompt of 62 tokens runs as 40, 6 and 16; the second step has room for 34 more."""
    profile = WorkerProfile(
        (1, 101), (11.0, 111.0), 0.0, 0.0, 0.0, 1.0, 1.0, kv_bytes_per_token=1, max_batch_tokens=40
    )
    scheduler, _, sequences = make(62, 90, num_blocks=50, profile=profile)
    assert run(scheduler, sequences) == [(0, 40)]
    assert run(scheduler, sequences) == [(0, 6), (1, 34)]
    assert run(scheduler, sequences) == [(0, 16), (1, 24)]
