"""Slots are neither lost nor given twice, whatever the order of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.sequence import Sequence
from common.engine.state.slots import OutOfSlotsError, StateSlots
from tests.unit.common.engine.sequences import make_sequence


def test_a_slot_has_one_holder() -> None:
    slots = StateSlots(2)
    first, second = slots.take(), slots.take()
    assert {first, second} == {0, 1}
    with pytest.raises(OutOfSlotsError, match="all 2 slots"):
        slots.take()
    slots.give_back(first)
    assert slots.num_free == 1
    assert slots.take() == first
    slots.check_integrity([first, second])


def test_what_nobody_holds_is_not_given_back() -> None:
    slots = StateSlots(2)
    slot = slots.take()
    slots.give_back(slot)
    with pytest.raises(ValueError, match="nobody holds it"):
        slots.give_back(slot)
    with pytest.raises(ValueError, match="at least one"):
        StateSlots(0)


def test_a_leak_shows() -> None:
    slots = StateSlots(3)
    slot = slots.take()
    with pytest.raises(AssertionError, match="slots held"):
        slots.check_integrity([])
    slots.check_integrity([slot])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=60))
def test_blocks_and_slots_are_taken_and_given_back_together(
    events: list[tuple[int, int]],
) -> None:
    """Six sequences come, are preempted and go, with three slots and ten blocks."""
    prefix = PrefixCache(BlockPool(10, 4), "m", is_enabled=False, slots=StateSlots(3))
    live: dict[int, Sequence] = {}
    for name, num_tokens in events:
        if name in live:
            prefix.release(live.pop(name))
        else:
            seq = make_sequence(num_tokens)
            if prefix.reserve(seq, num_tokens):
                live[name] = seq
            else:
                assert seq.state_slot is None
                assert len(live) == 3 or not prefix.pool.can_allocate(-(-num_tokens // 4))
        assert len({seq.state_slot for seq in live.values()}) == len(live) <= 3
        prefix.check_integrity(live.values())
