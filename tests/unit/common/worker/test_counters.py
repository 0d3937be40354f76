"""Tests of a worker's counters: tokens that run a second time, and blocks by cause."""

from collections.abc import Iterator

import pytest

from common.engine.batch import BatchEntry
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.sequence import Sequence
from common.ledger import HolderState
from common.messages import SamplingParams, WorkRequest
from common.worker.counters import BlockCauses, Counters
from tests.unit.common.engine.sequences import make_sequence

GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=8)


@pytest.mark.parametrize(
    ("num_run", "start", "num_tokens", "num_again"),
    [
        (0, 0, 40, 0),  # the first time
        (40, 0, 40, 40),
        (40, 32, 8, 8),  # a prefix was found
        (30, 0, 40, 30),  # preempted before its prompt had run to the end
        (30, 30, 10, 0),  # brought back from host memory
        (30, 24, 16, 6),
    ],
)
def test_tokens_that_had_run_before_are_counted(
    num_run: int, start: int, num_tokens: int, num_again: int
) -> None:
    seq, counters = make_sequence(40), Counters()
    seq.timeline.num_tokens_run, seq.num_computed_tokens = num_run, start
    counters.note_prefill(BatchEntry(seq, num_tokens))
    assert (counters.prefill_tokens, counters.recomputed_tokens) == (num_tokens, num_again)


@pytest.mark.parametrize(("prior", "num_run"), [((), 0), ((7, 8), 5)])
def test_a_request_that_comes_with_output_has_run_elsewhere(
    prior: tuple[int, ...], num_run: int
) -> None:
    cache = PrefixCache(BlockPool(4, 16), "tiny")
    request = WorkRequest("r", 2, (1, 2, 3), GREEDY, prior_token_ids=prior)
    assert cache.new_sequence(request, 0.0).timeline.num_tokens_run == num_run


def test_blocks_are_counted_by_cause_and_not_at_every_step() -> None:
    seqs = [make_sequence(40, request_id=str(number)) for number in range(3)]
    for number, seq in enumerate(seqs, 1):
        seq.block_table = list(range(number))
    causes, num_looks = BlockCauses(), 0

    def holders() -> Iterator[tuple[HolderState, Sequence]]:
        nonlocal num_looks
        num_looks += 1
        yield HolderState.DECODING, seqs[0]
        yield HolderState.PULLING, seqs[1]
        yield HolderState.DECODING, seqs[2]

    for _ in range(3):
        causes.look(holders)
    assert causes.num_blocks == {HolderState.DECODING: 4, HolderState.PULLING: 2}
    assert num_looks == 1
