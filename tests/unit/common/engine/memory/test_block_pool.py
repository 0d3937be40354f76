import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engine.memory.block_pool import BlockPool, OutOfBlocksError
from tests.examples import examples


def test_every_block_is_free_at_first_and_handed_out_once() -> None:
    pool = BlockPool(num_blocks=4, block_size=16)
    assert (pool.num_free, pool.num_held) == (4, 0)
    assert sorted(pool.allocate(3) + pool.allocate(1)) == [0, 1, 2, 3]
    assert (pool.num_free, pool.num_held) == (0, 4)


def test_a_released_block_can_be_had_again() -> None:
    pool = BlockPool(2, 16)
    first, second = pool.allocate(2)
    pool.release([first])
    assert pool.allocate(1) == [first]
    pool.release([second, first])
    assert pool.num_held == 0
    pool.check_integrity([])


def test_asking_for_too_many_takes_none() -> None:
    pool = BlockPool(3, 16)
    pool.allocate(1)
    with pytest.raises(OutOfBlocksError, match="3 blocks wanted, 2 free"):
        pool.allocate(3)
    assert pool.num_free == 2
    pool.check_integrity()


def test_a_block_is_released_once_for_each_reference() -> None:
    pool = BlockPool(2, 16)
    (block,) = pool.allocate(1)
    pool.release([block])
    with pytest.raises(ValueError, match=f"block {block} is released but nobody holds it"):
        pool.release([block])
    pool.check_integrity([])


def test_releasing_a_block_twice_in_one_call_is_refused_too() -> None:
    pool = BlockPool(2, 16)
    (block,) = pool.allocate(1)
    with pytest.raises(ValueError, match="nobody holds it"):
        pool.release([block, block])


@pytest.mark.parametrize(
    ("num_tokens", "num_blocks"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)]
)
def test_blocks_for_tokens_are_rounded_up(num_tokens: int, num_blocks: int) -> None:
    assert BlockPool(1, 16).num_blocks_for(num_tokens) == num_blocks


def test_can_allocate_counts_what_must_stay_free() -> None:
    pool = BlockPool(5, 16)
    pool.allocate(1)
    assert pool.can_allocate(4)
    assert not pool.can_allocate(5)
    assert pool.can_allocate(3, keep_free=1)
    assert not pool.can_allocate(4, keep_free=1)


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 16), (4, 0), (-1, 16)])
def test_a_pool_of_nothing_is_refused(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(num_blocks, block_size)


def test_integrity_names_a_leaked_block() -> None:
    pool = BlockPool(4, 16)
    kept, leaked = pool.allocate(2)
    pool.check_integrity([kept, leaked])
    with pytest.raises(AssertionError, match=rf"blocks \[{leaked}\]"):
        pool.check_integrity([kept])


def test_integrity_names_a_block_that_two_sequences_use() -> None:
    pool = BlockPool(4, 16)
    (block,) = pool.allocate(1)
    with pytest.raises(AssertionError, match=rf"blocks \[{block}\]"):
        pool.check_integrity([block, block])


def test_integrity_names_a_block_that_is_used_after_its_release() -> None:
    pool = BlockPool(4, 16)
    (block,) = pool.allocate(1)
    pool.release([block])
    with pytest.raises(AssertionError, match=rf"blocks \[{block}\]"):
        pool.check_integrity([block])


def test_integrity_finds_a_damaged_free_list() -> None:
    pool = BlockPool(4, 16)
    (block,) = pool.allocate(1)
    pool._free.append(block)
    with pytest.raises(AssertionError, match=f"block {block}: count 1, free True"):
        pool.check_integrity()
    pool._free.append(block)
    with pytest.raises(AssertionError, match="free list twice"):
        pool.check_integrity()


@settings(deadline=None, derandomize=True, max_examples=examples(30))
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_any_mix_of_allocate_and_release_keeps_the_books(steps: list[tuple[bool, int]]) -> None:
    pool = BlockPool(9, 16)
    holders: list[list[int]] = []
    for takes, number in steps:
        if takes and pool.can_allocate(number):
            holders.append(pool.allocate(number))
        elif takes:
            with pytest.raises(OutOfBlocksError):
                pool.allocate(number)
        elif holders:
            pool.release(holders.pop(number % len(holders)))
        held = [block for blocks in holders for block in blocks]
        assert len(set(held)) == len(held) == pool.num_held
        assert pool.num_free == 9 - len(held)
        pool.check_integrity(held)
