"""Sharing, keys and eviction of prefixes, by hand. Blocks have 4 positions."""

import pytest

from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.messages import SamplingParams, WorkRequest
from common.prefix_chain import PrefixChain
from tests.unit.common.engine.sequences import NO_EOS


def make(tokens: range, salt: str = "", group: str = "") -> Sequence:
    sampling = SamplingParams(temperature=0.0, seed=0, max_tokens=8)
    request = WorkRequest("r", 1, tuple(tokens), sampling, cache_salt=salt, group=group)
    return Sequence(request, Timeline(0.0))


def run(cache: PrefixCache, tokens: range, salt: str = "") -> Sequence:
    """Make a sequence whose prompt was computed."""
    seq = make(tokens, salt)
    assert cache.reserve(seq, len(tokens))
    seq.num_computed_tokens = len(tokens)
    cache.publish(seq)
    return seq


def test_whole_blocks_of_a_running_sequence_are_shared_and_the_rest_is_new() -> None:
    cache = PrefixCache(BlockPool(10, 4), "model")
    first = run(cache, range(10))
    second = make(range(11))
    assert cache.reserve(second, 11)
    assert second.num_computed_tokens == 8
    assert second.block_table[:2] == first.block_table[:2]
    assert second.block_table[2] != first.block_table[2]
    cache.pool.check_integrity(first.block_table + second.block_table)


def test_the_last_token_is_always_computed_anew() -> None:
    cache = PrefixCache(BlockPool(10, 4), "model")
    cache.release(run(cache, range(8)))
    again = run(cache, range(8))
    assert again.timeline.num_cached_tokens == 4


def test_a_prefix_outlives_its_sequence_and_counts_as_free() -> None:
    cache = PrefixCache(BlockPool(4, 4), "model")
    cache.release(run(cache, range(9)))
    assert (cache.pool.num_free, cache.pool.num_cached, cache.pool.num_held) == (4, 2, 0)
    assert run(cache, range(9)).timeline.num_cached_tokens == 8
    assert (cache.num_query_tokens, cache.num_hit_tokens) == (18, 8)


@pytest.mark.parametrize(
    ("tokens", "salt", "hit"),
    [
        (range(12), "", 8),
        (range(8), "", 4),
        (range(1, 12), "", 0),
        (range(12), "tenant", 0),
    ],
)
def test_only_the_same_tokens_under_the_same_salt_hit(tokens: range, salt: str, hit: int) -> None:
    cache = PrefixCache(BlockPool(10, 4), "model")
    cache.release(run(cache, range(10)))
    assert run(cache, tokens, salt).timeline.num_cached_tokens == hit


def test_another_token_in_an_early_block_hides_the_later_ones() -> None:
    cache = PrefixCache(BlockPool(20, 4), "model")
    cache.release(run(cache, range(12)))
    seq = make(range(12))
    seq.token_ids[1] = 77
    assert cache.reserve(seq, 12)
    assert seq.num_computed_tokens == 0


def test_generated_tokens_are_found_by_the_next_turn() -> None:
    cache = PrefixCache(BlockPool(10, 4), "model")
    seq = run(cache, range(6))
    for token in (6, 7, 8):
        seq.append(token, NO_EOS)
        seq.num_computed_tokens = len(seq.token_ids) - 1
        cache.publish(seq)
    cache.release(seq)
    assert run(cache, range(12)).timeline.num_cached_tokens == 8


def test_eviction_takes_the_least_recently_used_and_of_a_chain_its_end() -> None:
    cache = PrefixCache(BlockPool(6, 4), "model")
    cache.release(run(cache, range(12)))  # three blocks
    cache.release(run(cache, range(100, 112)))  # three more
    cache.release(
        run(cache, range(5))
    )  # shares the first block of the first, which is now the newest
    held = cache.pool.allocate(2)
    assert run(cache, range(100, 112)).timeline.num_cached_tokens == 8
    cache.pool.release(held)
    assert len(cache.pool.find(make_chain(range(12)).keys)) == 1


def make_chain(tokens: range) -> PrefixChain:
    chain = PrefixChain("model", "", 4)
    chain.grow(tokens, len(tokens) // 4)
    return chain


def test_a_reservation_that_does_not_fit_takes_and_shares_nothing() -> None:
    cache = PrefixCache(BlockPool(4, 4), "model")
    cache.release(run(cache, range(9)))
    seq = make(range(17))
    assert not cache.reserve(seq, 17)
    assert not cache.reserve(make(range(9)), 9, keep_free=2)
    assert (seq.block_table, cache.pool.num_held, cache.num_query_tokens) == ([], 0, 9)
    cache.pool.check_integrity([])


def test_cached_blocks_that_are_shared_no_longer_count_as_free() -> None:
    cache = PrefixCache(BlockPool(4, 4), "model")
    cache.release(run(cache, range(9)))
    seq = make(range(9))
    assert cache.reserve(seq, 9, keep_free=1)
    assert cache.pool.num_free == 1


def test_what_is_forgotten_is_never_found_again() -> None:
    cache = PrefixCache(BlockPool(6, 4), "model")
    seq = run(cache, range(9))
    cache.forget(seq)
    cache.release(seq)
    assert cache.pool.num_cached == 0
    assert run(cache, range(9)).timeline.num_cached_tokens == 0


def test_two_that_compute_the_same_keep_one_copy_findable() -> None:
    cache = PrefixCache(BlockPool(6, 4), "model")
    first, second = make(range(9)), make(range(9))
    assert cache.reserve(first, 9)
    assert cache.reserve(second, 9)
    for seq in (first, second):
        seq.num_computed_tokens = 9
        cache.publish(seq)
    cache.release(first)
    cache.release(second)
    assert (cache.pool.num_cached, cache.pool.num_free) == (2, 6)
    cache.pool.check_integrity([])


def test_a_disabled_cache_shares_nothing() -> None:
    cache = PrefixCache(BlockPool(6, 4), "model", is_enabled=False)
    cache.release(run(cache, range(9)))
    assert run(cache, range(9)).timeline.num_cached_tokens == 0
    assert cache.pool.num_cached == 0


def test_keys_depend_on_model_salt_and_every_earlier_token() -> None:
    keys = set()
    for fingerprint, salt, first in (("m", "", 0), ("n", "", 0), ("m", "s", 0), ("m", "", 1)):
        chain = PrefixChain(fingerprint, salt, 4)
        chain.grow([first, *range(1, 8)], 2)
        keys.add(chain.keys[1])
        assert chain.keys[1].endswith(bytes([4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0]))
    assert len(keys) == 4


def test_a_chain_grown_in_steps_equals_one_grown_at_once() -> None:
    steps, at_once = PrefixChain("m", "", 4), PrefixChain("m", "", 4)
    for num_blocks in (1, 1, 3, 5):
        steps.grow(range(20), num_blocks)
    at_once.grow(range(20), 5)
    assert steps.keys == at_once.keys


def test_those_of_one_group_wait_until_the_first_has_computed_what_they_share() -> None:
    cache = PrefixCache(BlockPool(20, 4), "model")
    first, second, stranger = make(range(10), group="g"), make(range(10), group="g"), make(range(9))
    assert cache.reserve(first, 10)
    first.num_computed_tokens = 5
    cache.publish(first)
    assert not cache.reserve(second, 10)
    assert cache.reserve(stranger, 9)
    first.num_computed_tokens = 8
    cache.publish(first)
    assert cache.reserve(second, 10)
    assert second.block_table[:2] == first.block_table[:2]


def test_when_the_first_of_a_group_gives_up_another_one_computes() -> None:
    cache = PrefixCache(BlockPool(20, 4), "model")
    first, second, third = (make(range(10), group="g") for _ in range(3))
    assert cache.reserve(first, 10)
    cache.release(first)
    assert cache.reserve(second, 10)
    assert not cache.reserve(third, 10)
    cache.release(first)  # again, which must not end the second's lead
    assert not cache.reserve(third, 10)


@pytest.mark.parametrize(("num_tokens", "is_enabled"), [(4, True), (10, False)])
def test_nobody_waits_for_what_cannot_be_shared(num_tokens: int, is_enabled: bool) -> None:
    cache = PrefixCache(BlockPool(20, 4), "model", is_enabled=is_enabled)
    for _ in range(3):
        assert cache.reserve(make(range(num_tokens), group="g"), num_tokens)
