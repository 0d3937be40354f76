"""Keys and values reach the same slots as by PackedStorage.store, which is plain torch, and no others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.engine.cpu.emit import LANES
from common.engine.cpu.kv_quantize import QuantizedStore
from common.engine.cpu.kv_store import KVStore, Slots, call_now, find_runs
from common.engine.memory.kv_cache import DTYPES, KVCache
from tests.unit.common.engine.memory.test_kv_cache import make_spec
from tests.unit.common.engine.plain_stage import CPU

NUM_BLOCKS, HEADS = 8, 2


def positions(block: int, size: int, first: int, end: int) -> list[int]:
    return [block * size + offset for offset in range(first, end)]


def slots_of_a_step(size: int) -> list[int]:
    """Decode tokens at odd and even offsets, a whole block, and pieces of others that start anywhere."""
    return [
        5 * size + 3,
        2 * size + 4,
        *positions(0, size, 0, size),
        *positions(7, size, 5, size),
        *positions(6, size, 0, 7),
        *positions(3, size, 9, 12),
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("dim", [16, 48, 64])
def test_every_slot_gets_its_own(dtype: str, size: int, dim: int) -> None:
    spec = replace(make_spec(dtype), head_dim=dim)
    plain, ours = (KVCache(spec, NUM_BLOCKS, size, CPU) for _ in range(2))
    slots = torch.tensor(slots_of_a_step(size))
    step = torch.randn(len(slots), 3 * HEADS, dim, generator=torch.Generator().manual_seed(0))
    _, key, value = step.to(DTYPES[dtype]).split(HEADS, dim=1)  # columns of a wider tensor
    for cache in (plain, ours):
        cache.keys.fill_(1)
        cache.values.fill_(1)
    plain.blocks.store(1, slots, key, value)
    store = KVStore(ours.keys, ours.values)
    store.put(call_now, 1, key, value, Slots.of(slots.numpy(), size))
    assert torch.equal(ours.keys, plain.keys)
    assert torch.equal(ours.values, plain.values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dim", [16, 64, 80])
def test_quantized_heads_have_the_bits_that_torch_gives(dtype: str, dim: int) -> None:
    spec = replace(make_spec(dtype), head_dim=dim, kv_quantization="int8")
    plain, ours = (KVCache(spec, NUM_BLOCKS, 16, CPU) for _ in range(2))
    slots = torch.tensor(slots_of_a_step(16))
    step = torch.randn(len(slots), 3 * HEADS, dim, generator=torch.Generator().manual_seed(0))
    step *= torch.logspace(-45, 38, len(slots))[:, None, None]
    for row, odd in enumerate((0.0, float("nan"), float("inf"), -float("inf"), 2.5e-45)):
        step[row + 2, :, 3] = odd
        step[row + 8] = odd
    _, key, value = step.to(DTYPES[dtype]).split(HEADS, dim=1)
    plain.blocks.store(1, slots, key, value)
    store = QuantizedStore(ours.keys, ours.values)
    store.put(call_now, 1, key, value, Slots.of(slots.numpy(), 16))
    for mine, theirs in ((ours.keys, plain.keys), (ours.values, plain.values)):
        is_nan = theirs.view(torch.float32).isnan() & mine.view(torch.float32).isnan()
        assert bool(((mine == theirs) | is_nan).all())  # whichever NaN a scale is


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("size", [16, 24, 32])
def test_all_layers_of_kv_that_arrived_reach_the_same_slots(dtype: str, size: int) -> None:
    spec = make_spec(dtype)
    plain, ours = (KVCache(spec, NUM_BLOCKS, size, CPU) for _ in range(2))
    slots = torch.tensor(slots_of_a_step(size))
    wire = torch.randn(
        (spec.num_layers, 2, len(slots), spec.num_kv_heads, spec.head_dim),
        generator=torch.Generator().manual_seed(0),
    ).to(DTYPES[dtype])
    for layer, (key, value) in enumerate(wire):
        plain.blocks.store(layer, slots, key, value)
    KVStore(ours.keys, ours.values).store_layers(wire, slots.numpy())
    assert torch.equal(ours.keys, plain.keys)
    assert torch.equal(ours.values, plain.values)


def test_a_run_ends_with_its_block_and_where_positions_are_not_consecutive() -> None:
    slots = np.array([40, 41, *range(46, 50), 16, 80, 81])
    # 46 follows 41 with a gap, 48 begins a block, 16 and 80 are elsewhere
    assert find_runs(slots, 16).tolist() == [0, 2, 4, 6, 7, 9]


def test_a_long_block_has_runs_that_fill_a_vector() -> None:
    assert find_runs(np.arange(64, 96), 32).tolist() == list(range(0, 33, LANES))


def test_consecutive_positions_of_two_small_blocks_are_two_runs() -> None:
    assert find_runs(np.arange(6), 3).tolist() == [0, 3, 6]
