import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engine.memory.kv_cache import DTYPES, KVCache, Storage, kv_layout
from common.engine.model_spec import ModelSpec

CPU = torch.device("cpu")
NUM_BLOCKS = 12


def make_spec(dtype: str = "float32") -> ModelSpec:
    return ModelSpec(
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        vocab_size=50,
        max_context_tokens=64,
        eos_token_ids=frozenset(),
        dtype=dtype,
        fingerprint="f",
    )


def make_cache(block_size: int, dtype: str = "float32", storage: Storage = "packed") -> KVCache:
    """Make a cache whose slots are NaN until written."""
    cache = KVCache(make_spec(dtype), NUM_BLOCKS, block_size, CPU, storage)
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    return cache


def make_payload(num_tokens: int, dtype: str = "float32") -> torch.Tensor:
    """Make KV [layers, 2, tokens, kv_heads, head_dim], no two numbers the same in float32."""
    shape = kv_layout(make_spec(dtype)).shape(num_tokens)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype])


def table_for(num_tokens: int, block_size: int) -> list[int]:
    """Return blocks in an order that is not theirs in memory."""
    order = [7, 2, 11, 4, 0, 9, 5, 10, 1, 8, 3, 6]
    return order[: -(-num_tokens // block_size)]


@pytest.mark.parametrize("storage", ["packed", "pages"])
@pytest.mark.parametrize("block_size", [1, 3, 4, 16])
def test_what_was_written_is_read_at_every_alignment(block_size: int, storage: Storage) -> None:
    num_tokens = min(3 * block_size + 1, 20)
    payload, table = make_payload(num_tokens), table_for(num_tokens, block_size)
    cache = make_cache(block_size, storage=storage)
    cache.write(table, 0, payload)
    for start, end in itertools.combinations(range(num_tokens + 1), 2):
        assert torch.equal(cache.read(table, start, end), payload[:, :, start:end])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("storage", ["packed", "pages"])
@pytest.mark.parametrize("block_size", [1, 3, 4])
def test_a_write_at_any_alignment_touches_its_positions_only(
    block_size: int, storage: Storage, dtype: str
) -> None:
    num_tokens = 3 * block_size + 1
    payload, table = make_payload(num_tokens, dtype), table_for(num_tokens, block_size)
    capacity = len(table) * block_size
    for start, end in itertools.combinations(range(num_tokens + 1), 2):
        cache = make_cache(block_size, dtype, storage)
        cache.write(table, start, payload[:, :, start:end])
        held = cache.read(table, 0, capacity)
        written = torch.full_like(held, float("nan"))
        written[:, :, start:end] = payload[:, :, start:end]
        assert torch.equal(held.nan_to_num(-99), written.nan_to_num(-99))
        others = [block for block in range(NUM_BLOCKS) if block not in table]
        assert cache.keys[:, others].isnan().all()
        assert cache.values[:, others].isnan().all()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    from_size=st.sampled_from([1, 2, 5, 16, 32]),
    to_size=st.sampled_from([1, 3, 4, 16, 32]),
    cuts=st.sets(st.integers(1, 11), max_size=4),
    start=st.integers(0, 11),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_chunks_cross_between_block_sizes_bit_by_bit(
    from_size: int, to_size: int, cuts: set[int], start: int, dtype: str
) -> None:
    """Chunks that a prefill worker copies out arrive in a decode worker's blocks."""
    payload = make_payload(12, dtype)
    source, target = make_cache(from_size, dtype), make_cache(to_size, dtype)
    from_table, to_table = table_for(12, from_size), table_for(12, to_size)
    source.write(from_table, 0, payload)
    edges = [start, *sorted(cut for cut in cuts if cut > start), 12]
    for lo, hi in itertools.pairwise(edges):
        target.write(to_table, lo, source.read(from_table, lo, hi))
    assert torch.equal(target.read(to_table, start, 12), payload[:, :, start:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_a_step_stores_is_what_travels(dtype: str) -> None:
    """`store` puts single positions, `read` and `write` go by whole words: one layout."""
    payload, table = make_payload(9, dtype), table_for(9, 4)
    stored, written = make_cache(4, dtype), make_cache(4, dtype)
    slots = torch.tensor([table[position // 4] * 4 + position % 4 for position in range(9)])
    for layer in range(3):
        stored.blocks.store(layer, slots, payload[layer, 0], payload[layer, 1])
    written.write(table, 0, payload)
    assert torch.equal(stored.read(table, 0, 9), payload)
    for one, other in ((stored.keys, written.keys), (stored.values, written.values)):
        assert torch.equal(one.nan_to_num(-99), other.nan_to_num(-99))


def test_reading_copies() -> None:
    cache, table = make_cache(4), [2, 5]
    payload = make_payload(8)
    cache.write(table, 0, payload)
    before = cache.read(table, 0, 8)
    cache.write(table, 0, payload * 2)
    assert torch.equal(before, payload)


def test_what_is_read_is_contiguous_for_the_wire() -> None:
    cache = make_cache(4)
    cache.write([3, 1], 0, make_payload(8))
    for start, end in ((0, 8), (0, 4), (1, 7), (5, 6)):
        assert cache.read([3, 1], start, end).is_contiguous()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_memory_and_wire_sizes_follow_from_the_shape(dtype: str) -> None:
    """2 (keys, values) x 3 layers x 2 heads x 8 channels."""
    spec, width = make_spec(dtype), DTYPES[dtype].itemsize
    per_token = 2 * 3 * 2 * 8 * width
    assert KVCache.block_bytes(spec, 16) == 16 * per_token
    assert make_cache(16, dtype).num_bytes == NUM_BLOCKS * 16 * per_token
    assert kv_layout(spec).num_bytes(5) == 5 * per_token == make_payload(5, dtype).nbytes


def test_llama_2_7b_needs_half_a_mebibyte_per_token() -> None:
    spec = ModelSpec(32, 32, 32, 128, 32_000, 4096, frozenset(), "float16", "f")
    assert spec.kv_bytes_per_token(2) == 512 * 1024


def test_pages_are_the_memory_itself_in_token_order() -> None:
    payload, table = make_payload(9), table_for(9, 4)
    cache = make_cache(4, storage="pages")
    cache.write(table, 0, payload)
    for layer in range(3):
        for kind, pages in enumerate(cache.blocks.pages(layer)):
            assert pages.is_contiguous()
            assert torch.equal(pages[table].flatten(0, 1)[:9], payload[layer, kind])


def test_packed_memory_has_no_pages() -> None:
    with pytest.raises(ValueError, match="packed"):
        make_cache(4).blocks.pages(0)
