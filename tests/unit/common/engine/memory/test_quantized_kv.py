"""Keys and values of 8 bits: numbers come back within half a level, and words cross caches as they are."""

from dataclasses import replace

import pytest
import torch

from common.engine.memory.kv_cache import KVCache, Storage, kv_layout
from common.engine.memory.quantized_kv import FP8, INT8, LEVELS, Levels
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


each_form = pytest.mark.parametrize("levels", [INT8, FP8], ids=["int8", "fp8"])


def quantized(kind: str, form: str = "int8", dtype: str = "float32") -> ModelSpec:
    spec = replace(make_spec(dtype), own_kv_shapes=SHAPES[kind])
    return spec.with_quantized_kv(form)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 3, 16, 64])
def test_a_number_comes_back_within_half_a_level(
    levels: Levels, dtype: torch.dtype, dim: int
) -> None:
    """A level that is a float has 4 bits."""
    numbers = (draw(50, 2, dim) * torch.logspace(-3, 3, 50)[:, None, None]).to(dtype)
    back = levels.dequantize(levels.quantize(numbers), dim)
    largest = numbers.float().abs().amax(-1, keepdim=True)
    bound = largest / 254 if levels is INT8 else (numbers.float().abs() / 16).clamp(largest / 2e5)
    assert bool(((back - numbers.float()).abs() <= bound * 1.0001).all())
    assert torch.equal(back.abs().amax(-1, keepdim=True) / largest > 0.9999, largest > 0)


def test_levels_are_rounded_to_even_and_the_scale_lies_behind_them() -> None:
    words = INT8.quantize(torch.tensor([[127.0, 0.5, 1.5, -2.5, -127.0]]))
    assert words.view(torch.int8).tolist()[0][:8] == [127, 0, 2, -2, -127, 0, 0, 0]
    assert words[:, -1:].view(torch.float32).item() == pytest.approx(1.0)


def test_floats_are_rounded_to_even_and_the_largest_does_not_overflow() -> None:
    """Between 256 and 448 levels are 32 apart, and next to zero 2 ** -9."""
    words = FP8.quantize(torch.tensor([[448.0, 272.0, -304.0, 3 / 1024, 1 / 1024]]))
    found = words.view(torch.float8_e4m3fn).float().tolist()[0][:8]
    assert found == [448, 256, -320, 1 / 256, 0, 0, 0, 0]
    assert words[:, -1:].view(torch.float32).item() == pytest.approx(1.0)
    for largest in draw(2000, seed=2).abs().add(0.01):
        numbers = torch.stack((largest, -largest))
        assert FP8.dequantize(FP8.quantize(numbers), 2) == pytest.approx(numbers, rel=1e-6)


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_of_the_models_dtype_are_rounded_once(levels: Levels, dtype: torch.dtype) -> None:
    words = levels.quantize(draw(40, 2, 18).to(dtype))
    numbers = torch.empty(40, 2, 18, dtype=dtype)
    levels.dequantize_into(numbers, words)
    assert torch.equal(numbers, levels.dequantize(words, 18).to(dtype))


@each_form
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_and_in_its_head(levels: Levels, odd: float) -> None:
    numbers = draw(3, 2, 8)
    numbers[1, 0, 5] = odd
    back = levels.dequantize(levels.quantize(numbers), 8)
    assert not back[1, 0, 5].isfinite()
    back[1, 0], numbers[1, 0] = 0, 0
    assert torch.equal(back, levels.dequantize(levels.quantize(numbers), 8))


@each_form
def test_zeros_and_what_is_next_to_zero_become_zeros(levels: Levels) -> None:
    numbers = torch.tensor([[0.0, 0.0], [1e-40, -1e-44]])
    back = levels.dequantize(levels.quantize(numbers), 2)
    assert back.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("form", LEVELS)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("storage", ["packed", "pages"])
def test_a_hand_off_keeps_every_bit(kind: str, storage: Storage, form: str) -> None:
    """Positions that steps stored one by one go in pieces into blocks of another size and storage."""
    spec, levels = quantized(kind, form), LEVELS[form]
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
            words = levels.quantize(numbers)
            assert torch.equal(back, levels.dequantize(words, numbers.shape[-1]))
            assert torch.equal(again, back)


@pytest.mark.parametrize("form", LEVELS)
def test_memory_and_wire_have_a_byte_a_number_and_four_a_head(form: str) -> None:
    """SmolLM2-135M: 30 layers, 3 KV heads of 64 channels."""
    full = ModelSpec(30, 9, 3, 64, 100, 2048, frozenset(), "bfloat16", "f")
    spec = full.with_quantized_kv(form)
    per_token = 30 * 3 * 2 * (64 + 4)
    assert KVCache.block_bytes(spec, 16) == 16 * per_token
    assert KVCache.block_bytes(full, 16) == 16 * 30 * 3 * 2 * 64 * 2
    cache = KVCache(spec, 5, 16, CPU)
    assert (cache.num_bytes, cache.num_bytes_per_token) == (5 * 16 * per_token, per_token)
    assert kv_layout(spec).num_bytes(7) == 7 * per_token
    assert kv_layout(spec).key != kv_layout(full).key
    assert (spec.stored_as, spec.fingerprint) == (f"bfloat16+kv-{form}", f"f-kv-{form}")
    assert kv_layout(spec).dtype == form


def test_words_are_no_pages() -> None:
    with pytest.raises(ValueError, match="quantized"):
        KVCache(quantized("alike"), 2, 4, CPU, "pages").blocks.pages(0)
