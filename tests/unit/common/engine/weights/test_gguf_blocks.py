"""Levels and scales of GGUF's blocks stand for exactly the numbers that `gguf` dequantizes."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from common.engine.weights.gguf_blocks import BLOCK_TYPES, GgufWeight

ROWS, COLUMNS = 5, 512
TYPES = pytest.mark.parametrize("kind", list(BLOCK_TYPES))


def random_blocks(kind: str, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    """Return rows of random blocks, with scales that are finite."""
    block = BLOCK_TYPES[kind]
    random = np.random.default_rng(3)
    count = rows * columns // block.numbers
    blocks = random.integers(0, 256, (count, block.num_bytes), np.uint8)
    # the place of float16 numbers: at the end of Q6_K, else at the beginning
    first = block.num_bytes - 2 if kind == "Q6_K" else 0
    num_halves = 2 if block.form.has_offsets else 1
    halves = (random.standard_normal((count, num_halves)) / 100).astype(np.float16)
    blocks[:, first : first + 2 * num_halves] = halves.view(np.uint8)
    return torch.from_numpy(blocks.reshape(rows, -1))


@TYPES
def test_sizes_are_those_of_gguf(kind: str) -> None:
    block = BLOCK_TYPES[kind]
    assert GGML_QUANT_SIZES[GGMLQuantizationType[kind]] == (block.numbers, block.num_bytes)
    assert block.row_bytes(COLUMNS) == COLUMNS // block.numbers * block.num_bytes


@TYPES
def test_numbers_are_those_of_gguf(kind: str) -> None:
    blocks = random_blocks(kind)
    weight = GgufWeight(blocks, kind, COLUMNS)
    found = weight.rows(torch.arange(ROWS))
    expected = torch.from_numpy(gguf.dequantize(blocks.numpy(), GGMLQuantizationType[kind]))
    assert found.form == weight.form
    assert (len(found.scales), found.num_groups) == (ROWS, COLUMNS // weight.group)
    assert torch.equal(found.dequantized(), expected)
    lowest, highest = int(found.levels.min()), int(found.levels.max())
    assert lowest < 0 or found.form.has_offsets
    assert highest < 2**found.form.bits


@TYPES
def test_panels_have_the_size_that_is_counted(kind: str) -> None:
    found = GgufWeight(random_blocks(kind), kind, COLUMNS).rows(torch.arange(ROWS))
    num_bytes = ROWS * COLUMNS * found.bits // 8 + found.scales.nbytes
    assert BLOCK_TYPES[kind].panel_bytes(ROWS * COLUMNS) == num_bytes


def test_rows_come_in_the_order_of_the_model() -> None:
    blocks, order = random_blocks("Q4_0"), torch.tensor([4, 2, 0, 1, 3])
    plain = GgufWeight(blocks, "Q4_0", COLUMNS).rows(torch.arange(ROWS)).dequantized()
    weight = GgufWeight(blocks, "Q4_0", COLUMNS, order)
    assert torch.equal(weight.rows(torch.tensor([0, 3])).dequantized(), plain[[4, 1]])
