"""A state is read as it was written, and only at its position."""

import pytest
import torch

from common.engine.state.cache import StateCache, StateError, Versions
from common.engine.state.layout import StateLayout, StatePart

LAYOUT = StateLayout(
    (
        StatePart(0, ("conv", 0), (3, 2), "bfloat16", 12),
        StatePart(0, ("recurrent", 0), (2, 2), "float32", 16),
        StatePart(4, ("conv", 0), (5,), "float32", 20),
    )
)


def make_cache(num_slots: int = 2) -> StateCache:
    return StateCache(LAYOUT, num_slots, torch.device("cpu"))


def test_the_layout_is_aligned_and_says_its_dtypes() -> None:
    assert LAYOUT.offsets == (0, 16, 32)
    assert (LAYOUT.num_bytes, LAYOUT.dtypes) == (64, "bfloat16,float32")
    assert LAYOUT.layers == {0, 4}
    assert StateCache.bytes_for(LAYOUT, 2) == 6 * 64
    assert [StateCache.slots_in(LAYOUT, n) for n in (6 * 64 - 1, 6 * 64)] == [1, 2]


def test_a_state_moves_from_cache_to_cache_in_pieces() -> None:
    source, sink = make_cache(), make_cache()
    versions = source.begin(1, 0)
    for tensors in source.tensors.values():
        for number, tensor in enumerate(tensors.values()):
            tensor[versions.target] = number + 0.5
    source.commit(versions, 7)
    state = source.read(1, 7)
    for start in range(0, 64, 24):
        with pytest.raises(StateError):
            sink.read(0, 7)
        sink.write(0, start, state[start : start + 24])
    sink.complete(0, 7)
    parts = zip(source.parts(state), sink.parts(sink.read(0, 7)), strict=True)
    for part, (ours, theirs) in zip(LAYOUT.parts, parts, strict=True):
        assert ours.shape == part.shape
        assert torch.equal(ours, theirs)


def test_steps_alternate_and_leave_what_they_read() -> None:
    cache = make_cache()
    first = cache.begin(0, 0)
    assert first == Versions(None, 0)
    cache.commit(first, 5)
    second = cache.begin(0, 5)
    assert second == Versions(0, 1)
    cache.commit(second, 6)
    assert cache.begin(0, 5) == second, "the same step again"
    with pytest.raises(StateError, match="not of 6"):
        cache.read(0, 6)


def test_a_new_owner_finds_nothing_of_the_one_before() -> None:
    cache = make_cache()
    cache.commit(cache.begin(0, 0), 5)
    cache.begin(0, 0)
    with pytest.raises(StateError, match="not of 5"):
        cache.begin(0, 5)
    cache.write(0, 0, torch.zeros(64, dtype=torch.uint8))
    with pytest.raises(StateError, match=r"positions \[-1, -1\]"):
        cache.begin(0, 5)


def test_without_a_slot_any_position_runs_and_nothing_is_kept() -> None:
    cache = make_cache()
    for position in (0, 9):
        cache.commit(cache.begin(None, position), position + 1)
    with pytest.raises(StateError):
        cache.read(0, 9)
