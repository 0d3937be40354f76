"""Flash backend over quantized pages, with the kernel's contract in plain torch in the kernel's place."""

from functools import partial

import numpy as np
import pytest
import torch

from common.engine.attention.flash import FlashBackend
from common.engine.attention.reference import ReferenceBackend
from common.engine.attention.unpacked import UnpackedPages
from common.engine.batch import Batch, BatchEntry
from common.engine.device_inputs import on_host
from common.engine.memory.quantized_kv import FP8
from common.engine.ragged import RaggedInputs
from tests.unit.common.engine.attention.paged import (
    Shape,
    Step,
    Turn,
    attend_dense,
    attend_with,
    make_cache,
)
from tests.unit.common.engine.attention.varlen_double import varlen
from tests.unit.common.engine.sequences import make_sequence

PAGE = 16
MIXED = [Turn(0, 37, 1), Turn(40, 1, 2), Turn(15, 20, 3), Turn(16, 1, 4), Turn(0, 1, 5)]
DECODE = [Turn(40, 1, 2), Turn(15, 1, 3), Turn(31, 1, 4), Turn(16, 1, 5), Turn(0, 1, 6)]
PLAIN = Step()
SHAPE = Shape(PAGE, 32, num_heads=6, num_kv_heads=2, kv_quantization="fp8")


def attend(
    turns: list[Turn], shape: Shape = SHAPE, step: Step = PLAIN, pages: int = 256
) -> list[torch.Tensor]:
    build = partial(FlashBackend, varlen=varlen, unpacked_pages=pages)
    return attend_with(build, "pages", shape, turns, step)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
@pytest.mark.parametrize("turns", [MIXED, DECODE], ids=["mixed", "decode"])
def test_a_batch_gives_what_the_formula_gives_over_rounded_numbers(
    turns: list[Turn], num_kv_heads: int, window: int | None
) -> None:
    shape = Shape(PAGE, 32, num_heads=6, num_kv_heads=num_kv_heads, kv_quantization="fp8")
    step = Step(window=window)
    for turn, output in zip(turns, attend(turns, shape, step), strict=True):
        expected = attend_dense(shape, turn, step)
        torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_reads_the_numbers_that_the_reference_backend_reads(dtype: str) -> None:
    shape = Shape(PAGE, 18, num_heads=4, num_kv_heads=2, dtype=dtype, kv_quantization="fp8")
    expected = attend_with(ReferenceBackend, "pages", shape, MIXED, Step())
    for output, right in zip(attend(MIXED, shape), expected, strict=True):
        torch.testing.assert_close(output, right)


@pytest.mark.parametrize("pages", [3, 4, 7])
def test_groups_of_sequences_give_the_bits_of_one_group(pages: int) -> None:
    """Three pages hold the longest sequence."""
    whole, cut = attend(MIXED), attend(MIXED, pages=pages)
    assert all(torch.equal(*pair) for pair in zip(cut, whole, strict=True))


def test_a_sequence_does_not_depend_on_its_neighbours() -> None:
    for index, turn in enumerate(MIXED):
        others = [other if i == index else other.changed() for i, other in enumerate(MIXED)]
        assert torch.equal(attend(others)[index], attend(MIXED)[index])
        assert torch.equal(attend([turn])[0], attend(MIXED)[index])


def inputs_of(tables: list[list[int]], contexts: list[int]) -> RaggedInputs:
    entries = []
    for table, context in zip(tables, contexts, strict=True):
        seq = make_sequence(context, computed=context - 1)
        seq.block_table = table
        entries.append(BatchEntry(seq, 1))
    return RaggedInputs.from_batch(Batch(tuple(entries)), PAGE)


def test_a_shared_block_is_unpacked_once_and_unused_ones_are_not() -> None:
    pages = UnpackedPages(make_cache(SHAPE, 12, 0.0, "pages"), FP8, 6)
    tables = [[9, 4, 7], [9, 4, 2], [9, 4, 7, 1], [3]]
    first, second = pages.groups(on_host(inputs_of(tables, [33, 40, 32, 5])))
    assert first.blocks.tolist() == [2, 4, 7, 9]
    assert first.block_tables.tolist() == [[3, 1, 2], [3, 1, 0]]
    assert (first.rows, second.rows) == (slice(0, 2), slice(2, 4))
    assert second.blocks.tolist() == [3, 4, 9]
    assert second.block_tables.tolist() == [[2, 1], [0, 0]]
    assert second.query_start.tolist() == [0, 1, 2]
    assert second.context_len.tolist() == [32, 5]


def test_unpacking_more_pages_than_fit_at_once_gives_each_its_own_numbers() -> None:
    cache = make_cache(SHAPE, 100, 0.0, "pages")
    stored = torch.randn(100 * PAGE, 2, 32, generator=torch.Generator().manual_seed(4))
    cache.blocks.store(1, torch.arange(100 * PAGE), stored, -stored)
    pages = UnpackedPages(cache, FP8, 100)
    order = np.random.default_rng(5).permutation(100).astype(np.int32)
    keys, values = pages.unpack(1, torch.from_numpy(order))
    rounded = FP8.dequantize(FP8.quantize(stored), 32).view(100, PAGE, 2, 32)[order]
    assert torch.equal(keys, rounded)
    assert torch.equal(values, -rounded)
