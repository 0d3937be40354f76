"""Tests that a router knows the prefixes in a worker's pool. Blocks have 4 positions."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.sequence import Sequence
from common.prefix_chain import PrefixChain
from common.prefix_log import PrefixLog, PrefixUpdate
from router.routing.prefix_index import PrefixIndex, PromptKeys
from tests.examples import examples
from tests.unit.common.engine.sequences import make_sequence

MODEL, SIZE = "model", 4


def keys_of(tokens: list[int], salt: str = "") -> PromptKeys:
    return PromptKeys(MODEL, salt, tokens)


def follow(index: PrefixIndex, log: PrefixLog, reached: int | None) -> int | None:
    """Report once on a connection that stands at `reached`; return its new position."""
    for update in log.since(reached):
        assert index.apply(update)
        reached = update.end
    return reached


def holding(*prompts: list[int], salt: str = "", size: int = SIZE) -> PrefixIndex:
    index, log = PrefixIndex(), PrefixLog(100)
    for prompt in prompts:
        chain = PrefixChain(MODEL, salt, size)
        chain.grow(prompt, len(prompt) // size)
        for key in chain.keys:
            log.add([key])
    follow(index, log, None)
    return index


@pytest.mark.parametrize(
    ("prompt", "num_tokens"),
    [
        (list(range(20)), 12),  # three blocks of the prompt are there
        (list(range(13)), 12),
        (list(range(12)), 8),  # the last token is always computed
        ([*range(7), 99, *range(8, 20)], 4),  # they part in the second block
        ([99, *range(1, 20)], 0),
        ([1], 0),
    ],
)
def test_a_prompt_finds_its_longest_known_head(prompt: list[int], num_tokens: int) -> None:
    index = holding(list(range(12)), [50] * 8)
    assert index.num_tokens(keys_of(prompt), SIZE) == num_tokens


def test_another_salt_model_or_block_size_finds_nothing() -> None:
    index, prompt = holding(list(range(12)), salt="mine"), list(range(20))
    assert index.num_tokens(keys_of(prompt, "mine"), SIZE) == 12
    assert index.num_tokens(keys_of(prompt, "yours"), SIZE) == 0
    assert index.num_tokens(PromptKeys("other", "mine", prompt), SIZE) == 0
    assert index.num_tokens(keys_of(prompt, "mine"), 2) == 0


def test_one_prompt_is_asked_of_workers_with_different_block_sizes() -> None:
    keys = keys_of(list(range(400)))
    fine, coarse = holding(list(range(300))), holding(list(range(300)), size=256)
    assert fine.num_tokens(keys, SIZE) == 300
    assert coarse.num_tokens(keys, 256) == 256
    assert fine.num_tokens(keys, 0) == 0  # a worker that said nothing yet


def test_a_gap_forgets_everything_and_asks_once_until_a_snapshot_comes() -> None:
    index = holding(list(range(12)))
    assert not index.apply(PrefixUpdate(start=7, end=8))
    assert index.num_tokens(keys_of(list(range(20))), SIZE) == 0
    # what was on its way already is no second complaint, and is not believed
    assert index.apply(PrefixUpdate(start=8, end=9, added=(b"8 bytes.",)))
    assert len(index) == 0
    assert index.apply(PrefixUpdate(start=9, end=9, is_snapshot=True, added=(b"8 bytes.",)))
    assert len(index) == 1
    assert index.apply(PrefixUpdate(start=9, end=10, removed=(b"8 bytes.",)))
    assert len(index) == 0


def test_changes_before_the_first_snapshot_are_not_believed() -> None:
    index = PrefixIndex()
    assert index.apply(PrefixUpdate(start=0, end=1, added=(b"8 bytes.",)))
    assert len(index) == 0


def test_who_is_too_far_behind_gets_a_snapshot_and_who_is_not_only_the_changes() -> None:
    log = PrefixLog(max_changes=3)
    for number in range(5):
        log.add([bytes([number]) * 24])
    (changes,) = log.since(2)
    assert (changes.start, changes.end, changes.is_snapshot) == (2, 5, False)
    assert changes.added == tuple(bytes([number]) * 8 for number in (2, 3, 4))
    (snapshot,) = log.since(1)
    assert (snapshot.end, snapshot.is_snapshot, len(snapshot.added)) == (5, True, 5)
    assert log.since(5) == []
    assert log.since(99)[0].is_snapshot  # a number of another incarnation


def test_of_several_changes_to_one_key_the_last_counts() -> None:
    log = PrefixLog(10)
    log.add([b"a" * 24])
    log.remove(b"a" * 24)
    log.remove(b"b" * 24)
    log.add([b"b" * 24])
    (update,) = log.since(0)
    assert (update.added, update.removed) == ((b"b" * 8,), (b"a" * 8,))


def test_a_large_snapshot_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.prefix_log.MAX_DIGESTS", 100)
    log, index = PrefixLog(1000), PrefixIndex()
    for number in range(250):
        log.add([number.to_bytes(8, "big")])
    parts = log.since(None)
    assert [len(part.added) for part in parts] == [100, 100, 50]
    assert follow(index, log, None) == 250
    assert len(index) == 250


class IndexMachine(RuleBasedStateMachine):
    """A pool that shares, evicts and forgets, and two routers that listen when they like."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12, SIZE)
        self.cache = PrefixCache(self.pool, MODEL)
        self.live: list[Sequence] = []
        self.indexes = [PrefixIndex(), PrefixIndex()]
        self.reached: list[int | None] = [None, None]

    @rule(first=st.integers(0, 3), length=st.integers(1, 40))
    def start(self, first: int, length: int) -> None:
        seq = make_sequence(range(first, first + length))
        if self.cache.reserve(seq, length):
            self.live.append(seq)

    @precondition(lambda self: self.live)
    @rule(draw=st.randoms(use_true_random=False), num_tokens=st.integers(1, 12))
    def run(self, draw: random.Random, num_tokens: int) -> None:
        seq = draw.choice(self.live)
        seq.num_computed_tokens = min(seq.num_computed_tokens + num_tokens, len(seq.token_ids))
        self.cache.publish(seq)

    @precondition(lambda self: self.live)
    @rule(draw=st.randoms(use_true_random=False), is_bad=st.booleans())
    def end(self, draw: random.Random, is_bad: bool) -> None:
        seq = draw.choice(self.live)
        self.live.remove(seq)
        if is_bad:
            self.cache.forget(seq)
        self.cache.release(seq)

    @rule(which=st.integers(0, 1))
    def report(self, which: int) -> None:
        index = self.indexes[which]
        self.reached[which] = follow(index, self.pool.prefixes, self.reached[which])
        held = {key[:8] for key in self.pool._blocks}
        assert index._held == held

    @rule(which=st.integers(0, 1))
    def reconnect(self, which: int) -> None:
        self.indexes[which], self.reached[which] = PrefixIndex(), None

    @rule(which=st.integers(0, 1))
    def miss_a_report(self, which: int) -> None:
        """The index complains at the next report, and the worker starts anew."""
        lost = self.pool.prefixes.since(self.reached[which])
        if not lost or lost[0].is_snapshot:
            return
        self.pool.prefixes.add([b"x" * 24])
        self.pool.prefixes.remove(b"x" * 24)
        (late,) = self.pool.prefixes.since(lost[0].end)
        if not late.is_snapshot:
            assert not self.indexes[which].apply(late)
            self.reached[which] = None

    @invariant()
    def a_router_that_is_up_to_date_finds_what_the_worker_would(self) -> None:
        for index, reached in zip(self.indexes, self.reached, strict=True):
            if reached != self.pool.prefixes._end:
                continue
            for first in range(4):
                seq = make_sequence(range(first, first + 40))
                found = self.pool.find(self.cache._findable_keys(seq))
                assert index.num_tokens(keys_of(seq.token_ids), SIZE) == len(found) * SIZE


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(
    deadline=None, derandomize=True, max_examples=examples(30), stateful_step_count=40
)
