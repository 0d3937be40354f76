"""Policies under memory pressure, one by one, with numbers that can be checked by hand."""

import pytest

from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.profile import WorkerProfile
from decode_worker.admission import DecodeAdmission
from decode_worker.footprint import Footprint, peak_blocks
from decode_worker.output_length import OutputLengths
from decode_worker.preemption import Mode, Preemption
from decode_worker.scheduler import DecodeScheduler
from tests.unit.common.engine.block_contents import BlockContents
from tests.unit.common.engine.sequences import hold, make_decoding, make_sequence
from tests.unit.decode_worker.host_memory import ContentsMemory, NoHostMemory
from tests.unit.decode_worker.pulls import make_credit


def test_without_experience_the_prior_is_expected_but_never_more_than_allowed() -> None:
    lengths = OutputLengths(prior_tokens=100)
    assert lengths.expect(1000, 0) == 100
    assert lengths.expect(70, 0) == 70
    assert lengths.expect(1000, 100) == 101


def test_the_quantile_is_that_of_answers_that_got_as_far() -> None:
    lengths = OutputLengths()
    for length in range(1, 101):
        lengths.observe(1000, length)
    assert lengths.expect(1000, 0) == 81  # a fifth of all were longer than 80
    assert lengths.expect(1000, 50) == 91  # of the fifty that were longer than 50
    assert lengths.expect(1000, 99) == 100
    assert lengths.expect(1000, 200) == 300  # longer than all: half as long again


def test_requests_of_another_kind_teach_nothing() -> None:
    lengths = OutputLengths(prior_tokens=256)
    for _ in range(50):
        lengths.observe(100, 3)
    assert lengths.expect(100, 0) == lengths.expect(127, 0) == 3
    assert lengths.expect(128, 0) == 128


def test_old_experience_is_forgotten() -> None:
    lengths = OutputLengths()
    for _ in range(300):
        lengths.observe(1000, 10)
    for _ in range(256):
        lengths.observe(1000, 500)
    assert lengths.expect(1000, 0) == 500


@pytest.mark.parametrize(
    ("footprints", "peak"),
    [
        # alone: 5 tokens and 3 to come are 2 blocks of 4
        ([Footprint(5, 3, 0)], 2),
        # when the first ends both have grown by 2: 8 and 10 tokens, 2 + 3 blocks; then 14 tokens, 4 blocks
        ([Footprint(6, 2, 0), Footprint(8, 6, 0)], 5),
        # the worst moment is the last: 4 + 1 tokens beside 16 + 1, later 40 alone
        ([Footprint(4, 1, 0), Footprint(16, 24, 0)], 10),
        # two of the three blocks of the second are another's
        ([Footprint(6, 2, 0), Footprint(8, 2, 2)], 3),
    ],
)
def test_the_peak_is_just_before_an_end(footprints: list[Footprint], peak: int) -> None:
    assert peak_blocks(footprints, block_size=4) == peak


def decoding_on(pool: BlockPool) -> Sequence:
    return hold(pool, make_decoding(40, 9))


@pytest.mark.parametrize(
    ("mode", "prefill_s", "copy_s", "num_shared", "swaps"),
    [
        ("auto", 3e-3, 1e-3, 0, True),  # two copies cost 2/3 of computing again
        ("auto", 1e-3, 1e-3, 0, False),
        ("auto", 3e-3, 1e-3, 20, False),  # half of it stays: computing the rest is cheaper
        ("swap", 1e-9, 1.0, 40, True),
        ("recompute", 1.0, 1e-9, 0, False),
    ],
)
def test_the_cheaper_way_back_is_chosen(
    mode: Mode, prefill_s: float, copy_s: float, num_shared: int, swaps: bool
) -> None:
    pool = BlockPool(20, 4)
    contents, seq = BlockContents(4), decoding_on(pool)
    seq.num_computed_tokens = 0
    contents.run(seq, 40)
    seq.num_computed_tokens = 40
    memory = ContentsMemory(contents, PrefixCache(pool, "model"), max_sequences=1)
    profile = WorkerProfile(
        row_counts=(1, 100),
        row_seconds=(prefill_s, 100 * prefill_s),
        pair_s=0.0,
        copy_out_byte_s=copy_s,
        insert_byte_s=copy_s,
        kv_bytes_per_token=1,
    )
    preemption = Preemption(mode, Costs(profile), memory)
    preemption.set_aside(seq, num_shared)
    assert (preemption.num_swapped, preemption.num_recomputed) == (int(swaps), int(not swaps))
    assert (seq in memory.lengths) is swaps


def test_without_room_in_host_memory_it_is_computed_again() -> None:
    preemption = Preemption("swap", Costs(), NoHostMemory())
    preemption.set_aside(decoding_on(BlockPool(20, 4)), 0)
    assert (preemption.num_swapped, preemption.num_recomputed) == (0, 1)


def scheduler_of(pool: BlockPool, lengths: OutputLengths) -> DecodeScheduler:
    costs = Costs(WorkerProfile(max_batch_tokens=64, max_num_seqs=8))
    preemption = Preemption("recompute", costs, NoHostMemory())
    prefix = PrefixCache(pool, "model")
    admission = DecodeAdmission(prefix, lengths, costs, make_credit(), watermark=0.0)
    return DecodeScheduler(prefix, admission, preemption, costs)


def test_a_sequence_enters_only_if_the_batch_is_expected_to_fit_to_its_end() -> None:
    """With 10 blocks of 4, one sequence needs 20 tokens in the end; each newcomer has 4, and 12 to come."""
    pool, lengths = BlockPool(10, 4), OutputLengths()
    for _ in range(20):
        lengths.observe(100, 13)
    scheduler = scheduler_of(pool, lengths)
    scheduler.join(hold(pool, make_decoding(7, 9)))
    newcomers = [make_sequence([seq] * 4, max_tokens=100) for seq in range(2)]
    for seq in newcomers:
        scheduler.admission.add(seq)
    scheduler.schedule()
    # with one: 20 + 16 tokens, 5 + 5 blocks; a second would want 4 more than there are
    assert list(scheduler.admission.waiting) == newcomers[1:]


def test_a_batch_learns_from_its_own_ends() -> None:
    """A sequence that the prior kept out enters once answers turn out to be short."""
    pool, lengths = BlockPool(10, 4), OutputLengths(prior_tokens=1000)
    scheduler = scheduler_of(pool, lengths)
    scheduler.join(hold(pool, make_decoding(3, 9)))
    scheduler.admission.add(make_sequence(4, max_tokens=100))
    scheduler.schedule()
    assert len(scheduler.admission.waiting) == 1
    for _ in range(20):
        ended = make_decoding(3, 1, 2, max_tokens=100)
        ended.append(0, frozenset({0}))
        scheduler.remove(ended)
    scheduler.schedule()
    assert len(scheduler.admission.waiting) == 0
