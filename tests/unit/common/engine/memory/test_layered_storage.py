"""Memory of layers that differ holds, ships and takes in what was stored, bit by bit."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engine.memory.kv_cache import KVCache, Storage, kv_layout
from common.kv_transfer.layout import KVLayout, KVShape, LatentShape
from tests.unit.common.engine.memory.test_kv_cache import CPU, NUM_BLOCKS, make_spec, table_for

SHAPES = {
    "keys longer": (KVShape(2, 24, 8),) * 2,
    "values longer": (KVShape(1, 8, 32),) * 2,
    "by layer": (KVShape(2, 8, 8), KVShape(1, 16, 16), KVShape(2, 8, 8)),
    "all at once": (KVShape(1, 4, 2), KVShape(3, 2, 6), KVShape(1, 4, 2)),
    "latents": (LatentShape(1, 24, 16),) * 2,
    "latents, not rotated": (LatentShape(1, 16, 16),) * 2,
    "odd": (KVShape(1, 3, 5), KVShape(2, 4, 4)),
}
kinds = pytest.mark.parametrize("kind", SHAPES)
dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def make_cache(kind: str, size: int, dtype: str, storage: Storage = "packed") -> KVCache:
    spec = replace(make_spec(dtype), own_kv_shapes=SHAPES[kind])
    cache = KVCache(spec, NUM_BLOCKS, size, CPU, storage)
    for kv in cache.tensors:
        kv.fill_(float("nan"))
    return cache


def make_payload(cache: KVCache, num_tokens: int) -> torch.Tensor:
    count = sum(shape.num_held for shape in cache.shapes) * num_tokens
    return torch.randn(count, generator=torch.Generator().manual_seed(1)).to(cache.keys.dtype)


def expect(cache: KVCache, payload: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Cut positions [start, end) out of a payload, by the definition of the wire layout."""
    num_tokens = payload.numel() // sum(shape.num_held for shape in cache.shapes)
    parts, at = [], 0
    for shape in cache.shapes:
        for width in (shape.num_kv_heads * channels for channels in shape.held):
            kv = payload[at : at + num_tokens * width].reshape(num_tokens, width)
            parts.append(kv[start:end].flatten())
            at += num_tokens * width
    return torch.cat(parts)


@kinds
@dtypes
@pytest.mark.parametrize("storage", ["packed", "pages"])
@pytest.mark.parametrize("size", [3, 4, 16])
def test_what_was_written_is_read_at_every_alignment(
    kind: str, dtype: str, storage: Storage, size: int
) -> None:
    cache, table = make_cache(kind, size, dtype, storage), table_for(10, size)
    payload = make_payload(cache, 10)
    cache.write(table, 0, payload)
    for start, end in itertools.combinations(range(11), 2):
        found = cache.read(table, start, end)
        assert found.is_contiguous()
        assert found.shape == layout_of(kind, dtype).shape(end - start)
        assert torch.equal(found, expect(cache, payload, start, end))
    for layer, pair in enumerate(cache.by_layer(payload)):
        for found, kv in zip(cache.blocks.gather(layer, torch.tensor(table)), pair, strict=True):
            assert torch.equal(found[:, :10], kv.transpose(0, 1))
    unused = [block for block in range(NUM_BLOCKS) if block not in table]
    assert all(kv[:, unused].isnan().all() for kv in cache.tensors)


@kinds
@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    from_size=st.sampled_from([2, 5, 16]),
    to_size=st.sampled_from([1, 4, 16]),
    to_storage=st.sampled_from(["packed", "pages"]),
    cuts=st.sets(st.integers(1, 11), max_size=4),
    start=st.integers(0, 11),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_chunks_cross_between_block_sizes_and_layouts(
    kind: str,
    from_size: int,
    to_size: int,
    to_storage: Storage,
    cuts: set[int],
    start: int,
    dtype: str,
) -> None:
    source, target = (
        make_cache(kind, from_size, dtype),
        make_cache(kind, to_size, dtype, to_storage),
    )
    payload = make_payload(source, 12)
    from_table, to_table = table_for(12, from_size), table_for(12, to_size)
    source.write(from_table, 0, payload)
    edges = [start, *sorted(cut for cut in cuts if cut > start), 12]
    for low, high in itertools.pairwise(edges):
        target.write(to_table, low, source.read(from_table, low, high))
    assert torch.equal(target.read(to_table, start, 12), expect(source, payload, start, 12))


@kinds
@dtypes
@pytest.mark.parametrize("storage", ["packed", "pages"])
def test_what_a_step_stores_travels_and_is_gathered(
    kind: str, dtype: str, storage: Storage
) -> None:
    cache, table = make_cache(kind, 4, dtype, storage), table_for(9, 4)
    payload = make_payload(cache, 9)
    slots = torch.tensor([table[position // 4] * 4 + position % 4 for position in range(9)])
    for layer, (keys, values) in enumerate(cache.by_layer(payload)):
        cache.blocks.store(layer, slots, keys, values)
        for found, stored in zip(
            cache.blocks.gather(layer, torch.tensor(table)), (keys, values), strict=True
        ):
            assert torch.equal(found[:, :9], stored.transpose(0, 1))
    assert torch.equal(cache.read(table, 0, 9), payload)
    for start in (0, 4, 9):
        rest = cache.without_first(payload, start)
        assert torch.equal(rest, expect(cache, payload, start, 9))


def test_layers_of_one_shape_lie_in_one_tensor() -> None:
    cache = make_cache("by layer", 4, "float32")
    assert [len(kv) for kv in cache.tensors] == [2, 2, 1, 1]
    places = [cache.place_of(layer) for layer in range(3)]
    assert [place for _, place in places] == [0, 0, 1]
    assert places[0][0] is places[2][0] is not places[1][0]


def layout_of(kind: str, dtype: str) -> KVLayout:
    return kv_layout(replace(make_spec(dtype), own_kv_shapes=SHAPES[kind]))
