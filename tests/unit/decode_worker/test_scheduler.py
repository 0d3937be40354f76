import pytest

from common.engine.batch import Batch
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.profile import WorkerProfile
from decode_worker.admission import DecodeAdmission
from decode_worker.output_length import OutputLengths
from decode_worker.preemption import Preemption
from decode_worker.scheduler import DecodeScheduler
from tests.unit.common.engine.sequences import NO_EOS, hold, make_decoding, make_sequence
from tests.unit.decode_worker.host_memory import NoHostMemory
from tests.unit.decode_worker.pulls import make_credit

BLOCK_SIZE = 4


def make(
    num_blocks: int = 20,
    budget: int = 16,
    max_num_seqs: int = 8,
    watermark: float = 0.0,
    profile: WorkerProfile | None = None,
) -> tuple[DecodeScheduler, BlockPool]:
    """Make a scheduler that expects every sequence to end with its next token."""
    pool = BlockPool(num_blocks, BLOCK_SIZE)
    profile = profile or WorkerProfile(max_batch_tokens=budget, max_num_seqs=max_num_seqs)
    costs, prefix = Costs(profile), PrefixCache(pool, "model")
    admission = DecodeAdmission(
        prefix, OutputLengths(prior_tokens=1), costs, make_credit(), watermark
    )
    preemption = Preemption("recompute", costs, NoHostMemory())
    return DecodeScheduler(prefix, admission, preemption, costs), pool


def join(scheduler: DecodeScheduler, pool: BlockPool, prompt: int) -> Sequence:
    """Add a sequence whose KV has arrived, with token 1."""
    seq = hold(pool, make_decoding(prompt, 9))
    scheduler.join(seq)
    return seq


def arriving(pool: BlockPool, number: int) -> list[Sequence]:
    return [hold(pool, make_sequence(2)) for _ in range(number)]


def shape(batch: Batch | None) -> list[tuple[Sequence, int]]:
    return [(entry.seq, entry.num_tokens) for entry in batch.entries] if batch else []


def run(scheduler: DecodeScheduler) -> list[tuple[Sequence, int]]:
    """Run one step as the engine does; every sequence that reaches its end gets a token."""
    batch = scheduler.schedule()
    for entry in batch.entries if batch else ():
        samples = entry.samples
        entry.seq.num_computed_tokens += entry.num_tokens
        if samples:
            entry.seq.append(9, NO_EOS)
    return shape(batch)


def test_nothing_to_do() -> None:
    assert make()[0].schedule() is None


def test_every_decoding_sequence_gets_one_token_each_step() -> None:
    scheduler, pool = make()
    first, second = join(scheduler, pool, 5), join(scheduler, pool, 2)
    assert run(scheduler) == [(first, 1), (second, 1)]
    assert run(scheduler) == [(first, 1), (second, 1)]


def test_local_prefill_takes_what_decode_tokens_leave() -> None:
    scheduler, pool = make()
    prompt = make_sequence(30)
    scheduler.admission.add(prompt)
    decoding = [join(scheduler, pool, 2) for _ in range(3)]
    decode_tokens = [(seq, 1) for seq in decoding]
    assert run(scheduler) == [*decode_tokens, (prompt, 13)]
    assert run(scheduler) == [*decode_tokens, (prompt, 13)]
    assert run(scheduler) == [*decode_tokens, (prompt, 4)]
    assert run(scheduler) == [*decode_tokens, (prompt, 1)]


def test_several_local_prompts_share_a_step() -> None:
    scheduler, _ = make()
    prompts = [make_sequence(n) for n in (6, 6, 6)]
    for seq in prompts:
        scheduler.admission.add(seq)
    assert [n for _, n in run(scheduler)] == [6, 6, 4]
    # the two that decode come first, then the rest of the third
    assert run(scheduler) == [(prompts[0], 1), (prompts[1], 1), (prompts[2], 2)]


def test_a_sequence_grows_by_a_block_when_it_needs_one() -> None:
    scheduler, pool = make()
    seq = join(scheduler, pool, 3)
    held = []
    for _ in range(6):
        run(scheduler)
        held.append(len(seq.block_table))
    # 4 tokens at the first step, 9 at the sixth
    assert held == [1, 2, 2, 2, 2, 3]
    assert pool.num_held == 3


def test_admission_keeps_the_watermark_free_while_others_run() -> None:
    """There are 10 blocks, 2 of them the watermark: with the next token 5 + 3 fit, 5 + 4 do not."""
    scheduler, pool = make(num_blocks=10, watermark=0.2)
    first = join(scheduler, pool, 15)
    prompt = make_sequence(13)
    scheduler.admission.add(prompt)
    assert run(scheduler) == [(first, 1)]
    scheduler.remove(prompt)
    smaller = make_sequence(11)
    scheduler.admission.add(smaller)
    assert [seq for seq, _ in run(scheduler)] == [first, smaller]


def test_alone_a_sequence_may_take_the_watermark_too() -> None:
    scheduler, _ = make(num_blocks=10, watermark=0.2)
    prompt = make_sequence(40)
    scheduler.admission.add(prompt)
    assert run(scheduler) == [(prompt, 16)]


def test_running_sequences_grow_into_the_watermark() -> None:
    scheduler, pool = make(num_blocks=5, watermark=0.2)
    seq = join(scheduler, pool, 15)
    assert pool.num_free == 1
    run(scheduler)
    assert run(scheduler) == [(seq, 1)]
    assert (pool.num_free, scheduler.preemption.num_recomputed) == (0, 0)


def test_under_pressure_the_newest_is_preempted() -> None:
    scheduler, pool = make(num_blocks=6)
    oldest, middle, newest = (join(scheduler, pool, 7) for _ in range(3))
    run(scheduler)
    assert run(scheduler) == [(oldest, 1), (middle, 1)]
    assert newest.block_table == []
    assert newest.num_computed_tokens == 0
    assert newest.num_output_tokens == 2
    assert newest.timeline.num_preemptions == scheduler.preemption.num_recomputed == 1
    pool.check_integrity(oldest.block_table + middle.block_table)


def test_the_preempted_one_comes_back_first_and_computes_all_it_had() -> None:
    scheduler, pool = make(num_blocks=6)
    oldest, newest = join(scheduler, pool, 11), join(scheduler, pool, 11)
    late = make_sequence(2)
    scheduler.admission.add(late)
    run(scheduler)
    assert run(scheduler) == [(oldest, 1)]
    assert list(scheduler.admission.waiting) == [newest, late]
    scheduler.remove(oldest)
    pool.release(oldest.block_table)
    # 11 prompt tokens and two of output
    assert run(scheduler) == [(newest, 13), (late, 2)]


def test_several_preempted_keep_their_order() -> None:
    scheduler, pool = make(num_blocks=7)
    oldest = join(scheduler, pool, 3)
    second, third = join(scheduler, pool, 11), join(scheduler, pool, 11)
    run(scheduler)
    run(scheduler)
    assert list(scheduler.admission.waiting) == [third]
    oldest.block_table += pool.allocate(pool.num_free)
    for _ in range(4):
        run(scheduler)
    assert list(scheduler.admission.waiting) == [second, third]


def test_the_last_one_is_never_preempted_but_waits() -> None:
    """Blocks that arriving KV holds are released after it has joined, or failed."""
    scheduler, pool = make(num_blocks=3)
    seq = join(scheduler, pool, 7)
    arriving = pool.allocate(1)
    run(scheduler)
    assert run(scheduler) == []
    assert (scheduler.preemption.num_recomputed, len(seq.block_table)) == (0, 2)
    pool.release(arriving)
    assert run(scheduler) == [(seq, 1)]


def test_a_sequence_may_be_the_one_that_gives_way_to_itself() -> None:
    scheduler, pool = make(num_blocks=5)
    oldest, newest = join(scheduler, pool, 9), join(scheduler, pool, 7)
    run(scheduler)
    assert run(scheduler) == [(oldest, 1)]
    assert list(scheduler.admission.waiting) == [newest]


def test_no_more_run_at_once_than_allowed() -> None:
    scheduler, pool = make(max_num_seqs=2)
    join(scheduler, pool, 2)
    for _ in range(2):
        scheduler.admission.add(make_sequence(2))
    assert len(run(scheduler)) == 2
    assert len(scheduler.admission.waiting) == 1


def test_slots_of_those_on_their_way_are_not_given_away() -> None:
    scheduler, pool = make(max_num_seqs=3)
    seq = join(scheduler, pool, 2)
    scheduler.admission.add(make_sequence(2))
    assert shape(scheduler.schedule(arriving(pool, 2))) == [(seq, 1)]
    assert len(shape(scheduler.schedule(arriving(pool, 1)))) == 2


@pytest.mark.parametrize(("num_arriving", "can_admit"), [(0, True), (1, True), (2, False)])
def test_room_counts_those_on_their_way(num_arriving: int, can_admit: bool) -> None:
    scheduler, pool = make(max_num_seqs=3)
    join(scheduler, pool, 2)
    others = arriving(pool, num_arriving)
    assert scheduler.admission.can_admit(make_sequence(2), scheduler.running, others) is can_admit


def test_waiting_tokens_are_prefill_work() -> None:
    scheduler, pool = make()
    join(scheduler, pool, 5)
    scheduler.admission.add(make_sequence(30))
    assert scheduler.num_waiting_tokens == 30
    run(scheduler)
    assert scheduler.num_waiting_tokens == 15


def test_a_sequence_that_can_never_run_is_known_beforehand() -> None:
    scheduler, _ = make(num_blocks=3)
    assert scheduler.admission.can_ever_run(12)
    assert not scheduler.admission.can_ever_run(13)


def test_a_removed_sequence_is_forgotten_wherever_it_stands() -> None:
    scheduler, pool = make(num_blocks=3)
    running, waiting = join(scheduler, pool, 8), make_sequence(5)
    scheduler.admission.add(waiting)
    for seq in (waiting, running, running):
        scheduler.remove(seq)
    assert scheduler.schedule() is None
    assert scheduler.admission.can_admit(make_sequence(2), scheduler.running, [])
