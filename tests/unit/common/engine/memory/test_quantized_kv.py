"""8-bit keys and values: numbers come back within half a level, and words cross caches as they are."""

from dataclasses import replace

import pytest
import torch

from common.engine.memory.kv_cache import KVCache, Storage, kv_layout
from common.engine.memory.quantized_kv import dequantize, quantize
from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import KVShape, LatentShape
from tests.unit.common.engine.memory.test_kv_cache import CPU, NUM_BLOCKS, make_spec, table_for

SHAPES = {
    "alike": (KVShape(2, 16, 16),) * 2,
    "by layer": (KVShape(2, 8, 8), KVShape(1, 16, 24), KVShape(2, 8, 8)),
    "odd": (KVShape(1, 3, 5), KVShape(2, 4, 4)),
    "latents": (LatentShape(1, 24, 16),) * 2,
}
TOKENS = 10


def quantized(kind: str, dtype: str = "float32") -> ModelSpec:
    spec = replace(make_spec(dtype), own_kv_shapes=SHAPES[kind])
    return spec.with_quantized_kv("int8")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 3, 16, 64])
def test_a_number_comes_back_within_half_a_level(dtype: torch.dtype, dim: int) -> None:
    numbers = (draw(50, 2, dim) * torch.logspace(-3, 3, 50)[:, None, None]).to(dtype)
    back = dequantize(quantize(numbers), dim)
    largest = numbers.float().abs().amax(-1, keepdim=True)
    assert bool(((back - numbers.float()).abs() <= largest / 254 * 1.0001).all())
    assert torch.equal(back.abs().amax(-1, keepdim=True) / largest > 0.9999, largest > 0)


def test_levels_are_rounded_to_even_and_the_scale_lies_behind_them() -> None:
    words = quantize(torch.tensor([[127.0, 0.5, 1.5, -2.5, -127.0]]))
    assert words.view(torch.int8).tolist()[0][:8] == [127, 0, 2, -2, -127, 0, 0, 0]
    assert words[:, -1:].view(torch.float32).item() == pytest.approx(1.0)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_and_in_its_head(odd: float) -> None:
    numbers = draw(3, 2, 8)
    numbers[1, 0, 5] = odd
    back = dequantize(quantize(numbers), 8)
    assert not back[1, 0, 5].isfinite()
    back[1, 0], numbers[1, 0] = 0, 0
    assert torch.equal(back, dequantize(quantize(numbers), 8))


def test_zeros_and_what_is_next_to_zero_become_zeros() -> None:
    numbers = torch.tensor([[0.0, 0.0], [1e-40, -1e-44]])
    assert dequantize(quantize(numbers), 2).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("storage", ["packed", "pages"])
def test_a_hand_off_keeps_every_bit(kind: str, storage: Storage) -> None:
    """Positions that steps stored one by one go in pieces into blocks of another size and storage."""
    spec = quantized(kind)
    source = KVCache(spec, NUM_BLOCKS, 4, CPU, storage)
    sink = KVCache(spec, NUM_BLOCKS, 3, CPU, "pages" if storage == "packed" else "packed")
    table, to_table = table_for(TOKENS, 4), table_for(TOKENS, 3)
    stored = [
        (draw(TOKENS, heads, key, seed=layer), draw(TOKENS, heads, value, seed=layer + 50))
        for layer, (heads, key, value) in enumerate(spec.kv_shapes)
    ]
    for position in range(TOKENS):
        slot = torch.tensor([table[position // 4] * 4 + position % 4])
        for layer, (keys, values) in enumerate(stored):
            here = slice(position, position + 1)
            source.blocks.store(layer, slot, keys[here], values[here])
    for start, end in ((0, 5), (5, 7), (7, TOKENS)):
        payload = source.read(table, start, end)
        assert payload.shape == kv_layout(spec).shape(end - start)
        assert payload.nbytes == kv_layout(spec).num_bytes(end - start)
        sink.write(to_table, start, payload)
    whole = sink.read(to_table, 0, TOKENS)
    assert torch.equal(whole, source.read(table, 0, TOKENS))
    rest = sink.without_first(whole, 3)
    assert torch.equal(rest, source.read(table, 3, TOKENS))
    blocks = torch.tensor(to_table)
    for layer, (pair, piece) in enumerate(zip(stored, sink.by_layer(whole), strict=True)):
        gathered = [kv[:, :TOKENS].transpose(0, 1) for kv in sink.blocks.gather(layer, blocks)]
        for numbers, back, again in zip(pair, piece, gathered, strict=True):
            assert torch.equal(back, dequantize(quantize(numbers), numbers.shape[-1]))
            assert torch.equal(again, back)


def test_memory_and_wire_have_a_byte_a_number_and_four_a_head() -> None:
    """SmolLM2-135M: 30 layers, 3 KV heads of 64 channels."""
    full = ModelSpec(30, 9, 3, 64, 100, 2048, frozenset(), "bfloat16", "f")
    spec = full.with_quantized_kv("int8")
    per_token = 30 * 3 * 2 * (64 + 4)
    assert KVCache.block_bytes(spec, 16, "packed") == 16 * per_token
    assert KVCache.block_bytes(full, 16, "packed") == 16 * 30 * 3 * 2 * 64 * 2
    cache = KVCache(spec, 5, 16, CPU)
    assert (cache.num_bytes, cache.num_bytes_per_token) == (5 * 16 * per_token, per_token)
    assert kv_layout(spec).num_bytes(7) == 7 * per_token
    assert kv_layout(spec).key != kv_layout(full).key
    assert (spec.stored_as, spec.fingerprint) == ("bfloat16+kv-int8", "f-kv-int8")


def test_words_are_no_pages() -> None:
    with pytest.raises(ValueError, match="quantized"):
        KVCache(quantized("alike"), 2, 4, CPU, "pages").blocks.pages(0)
