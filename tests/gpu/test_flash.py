"""Flash backend against the reference backend, on the device, over one KV memory."""

import pytest
import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.flash import PAGE, FlashBackend
from common.engine.attention.reference import ReferenceBackend
from common.engine.device_inputs import DeviceInputs
from common.engine.memory.kv_cache import KVCache
from common.engine.memory.quantized_kv import FP8
from tests.unit.common.engine.attention.paged import (
    LAYER,
    Shape,
    Step,
    Turn,
    make_cache,
    place,
)

pytestmark = pytest.mark.gpu

SHAPES = [
    Shape(PAGE, 64, num_heads=9, num_kv_heads=3, dtype="bfloat16"),
    Shape(PAGE, 128, num_heads=32, num_kv_heads=8, dtype="bfloat16"),
    Shape(PAGE, 128, num_heads=8, num_kv_heads=8, dtype="float16"),
    Shape(PAGE, 64, num_heads=9, num_kv_heads=3, dtype="bfloat16", kv_quantization="fp8"),
    Shape(PAGE, 128, num_heads=8, num_kv_heads=8, dtype="float16", kv_quantization="fp8"),
]
MIXED = [Turn(0, 700, 1), Turn(900, 1, 2), Turn(255, 300, 3), Turn(256, 1, 4), Turn(0, 1, 5)]


def attend(
    backend: AttentionBackend, cache: KVCache, shape: Shape, turns: list[Turn], step: Step
) -> list[torch.Tensor]:
    tables, block = [], 1
    for turn in turns:
        count = -(-(turn.computed + turn.new) // shape.block_size)
        tables.append(list(range(block, block + count))[::-1])
        block += count
    backend.begin(DeviceInputs(cache.keys.device).put(place(cache, shape, turns, tables)))
    new = torch.cat([turn.keys_values(shape)[:, turn.computed :] for turn in turns], dim=1).cuda()
    query = torch.cat([turn.query(shape) for turn in turns]).cuda()
    out = backend.attend(LAYER, query, new[0], new[1], step.form)
    return [part.clone() for part in out.split([turn.new for turn in turns])]


def memory(shape: Shape) -> KVCache:
    return make_cache(shape, 20, float("nan"), "pages", "cuda")


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_gives_what_the_reference_gives(shape: Shape, window: int | None) -> None:
    cache, step = memory(shape), Step(0.125, window)
    found = attend(FlashBackend(cache), cache, shape, MIXED, step)
    expected = attend(ReferenceBackend(cache), cache, shape, MIXED, step)
    for output, right in zip(found, expected, strict=True):
        torch.testing.assert_close(output, right, atol=2e-2, rtol=2e-2)


def test_fp8_has_the_bits_that_a_cpu_gives_it() -> None:
    numbers = torch.randn(64, 3, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    words = FP8.quantize(numbers)
    assert torch.equal(FP8.quantize(numbers.cuda()).cpu(), words)
    assert torch.equal(FP8.dequantize(words.cuda(), 64).cpu(), FP8.dequantize(words, 64))


@pytest.mark.parametrize("pages", [4, 7])
def test_fp8_in_groups_of_sequences_has_the_bits_of_one_group(pages: int) -> None:
    """Four pages hold the longest sequence."""
    shape = SHAPES[-1]
    cache = memory(shape)
    whole = attend(FlashBackend(cache), cache, shape, MIXED, Step(0.125))
    groups = FlashBackend(cache, unpacked_pages=pages)
    for output, right in zip(attend(groups, cache, shape, MIXED, Step(0.125)), whole, strict=True):
        assert torch.equal(output, right)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sequence_does_not_depend_on_its_neighbours(shape: Shape) -> None:
    for index, turn in enumerate(MIXED):
        cache = memory(shape)
        others = [other if i == index else other.changed() for i, other in enumerate(MIXED)]
        first = attend(FlashBackend(cache), cache, shape, MIXED, Step(0.125))[index]
        second = attend(FlashBackend(cache), cache, shape, others, Step(0.125))[index]
        alone = attend(FlashBackend(cache), cache, shape, [turn], Step(0.125))[0]
        assert torch.equal(first, second)
        assert torch.equal(first, alone)
