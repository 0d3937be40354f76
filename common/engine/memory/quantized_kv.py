"""Keys and values as 8-bit integers in blocks, in plain torch; kv_transfer/quantized.py has the form.

No level depends on another position or head. Words are copied as float32 numbers would be. The CPU's kernel
gives the same bits (cpu/kv_quantize.py).
"""

from collections.abc import Sequence

import torch

from common.engine.memory.block_storage import BlockStorage
from common.kv_transfer.layout import KVShape
from common.kv_transfer.quantized import LEVELS_OF_WORD, SCALE_PER_SIZE, SMALLEST_SCALE

WORD = torch.int32


def quantize(x: torch.Tensor) -> torch.Tensor:
    """Return `x` [..., dim] as words [..., ceil(dim / 4) + 1]; NaN or infinity makes the whole head NaN."""
    numbers = x.float()
    scale = numbers.abs().amax(-1, keepdim=True) * SCALE_PER_SIZE
    scale = torch.where(scale < SMALLEST_SCALE, 0.0, scale)
    ratio = torch.where(scale >= SMALLEST_SCALE, numbers / scale, 0.0).nan_to_num(nan=0.0)
    levels = ratio.round().to(torch.int8)
    levels = torch.nn.functional.pad(levels, (0, -x.shape[-1] % LEVELS_OF_WORD)).contiguous()
    return torch.cat((levels.view(WORD), scale.view(WORD)), dim=-1)


def dequantize(words: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the numbers [..., dim] float32 that `words` stand for."""
    levels = words[..., :-1].contiguous().view(torch.int8)[..., :dim]
    return levels * words[..., -1:].contiguous().view(torch.float32)


class QuantizedBlocks:
    """Blocks of words, seen as blocks of numbers. Payloads are words. See BlockStorage."""

    def __init__(self, words: BlockStorage, shapes: Sequence[KVShape]) -> None:
        """Take the blocks, and the shape of each layer's numbers."""
        self._words = words
        self._shapes = shapes

    def read(self, block_table: list[int], start: int, end: int) -> torch.Tensor:
        """Copy words as they are. See BlockStorage."""
        return self._words.read(block_table, start, end)

    def write(self, block_table: list[int], start: int, payload: torch.Tensor) -> None:
        """Copy words as they are. See BlockStorage."""
        self._words.write(block_table, start, payload)

    def store(
        self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Quantize, then scatter. See BlockStorage."""
        self._words.store(layer, slots, quantize(keys), quantize(values))

    def gather(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy whole blocks as float32 numbers. See BlockStorage."""
        keys, values = self._words.gather(layer, blocks)
        shape = self._shapes[layer]
        return dequantize(keys, shape.key_dim), dequantize(values, shape.value_dim)

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Raise ValueError: blocks hold words."""
        raise ValueError("quantized blocks are no pages")
