"""Keys and values of 8 bits in blocks, in plain torch; kv_transfer/quantized.py has the form.

No level depends on another position or head. Words are copied as float32 numbers would be. The CPU's kernel
gives the same bits of integers (cpu/kv_quantize.py). Nothing here waits for a device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from common.engine.memory.block_storage import BlockStorage
from common.kv_transfer.layout import KVShape
from common.kv_transfer.quantized import (
    LEVELS_OF_WORD,
    SCALE_PER_SIZE,
    SCALE_PER_SIZE_FP8,
    SMALLEST_SCALE,
)

WORD = torch.int32


@dataclass(frozen=True, slots=True)
class Levels:
    """One form of 8 bits."""

    dtype: torch.dtype
    scale_per_size: float

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` [..., dim] as words [..., ceil(dim / 4) + 1]; NaN or infinity makes a whole head NaN."""
        numbers = x.float()
        scale = numbers.abs().amax(-1, keepdim=True) * self.scale_per_size
        scale = torch.where(scale < SMALLEST_SCALE, 0.0, scale)
        ratio = torch.where(scale >= SMALLEST_SCALE, numbers / scale, 0.0).nan_to_num(nan=0.0)
        if not self.dtype.is_floating_point:
            ratio = ratio.round()
        levels = ratio.to(self.dtype).view(torch.int8)
        levels = torch.nn.functional.pad(levels, (0, -x.shape[-1] % LEVELS_OF_WORD)).contiguous()
        return torch.cat((levels.view(WORD), scale.view(WORD)), dim=-1)

    def dequantize(self, words: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the numbers [..., dim] float32 that `words` stand for."""
        numbers = torch.empty(*words.shape[:-1], dim, dtype=torch.float32, device=words.device)
        self.dequantize_into(numbers, words)
        return numbers

    def dequantize_into(self, numbers: torch.Tensor, words: torch.Tensor) -> None:
        """Fill `numbers` [..., dim] with what `words` stand for, rounded once to their dtype.

        Every level is exact in every dtype that is served.
        """
        words = words.contiguous()
        levels = words[..., :-1].view(self.dtype)[..., : numbers.shape[-1]]
        scale = words[..., -1:].view(torch.float32)
        torch.mul(levels.to(numbers.dtype), scale, out=numbers)


INT8: Final = Levels(torch.int8, SCALE_PER_SIZE)
FP8: Final = Levels(torch.float8_e4m3fn, SCALE_PER_SIZE_FP8)
LEVELS: Final[Mapping[str, Levels]] = {"int8": INT8, "fp8": FP8}  # of ModelSpec.kv_quantization


class QuantizedBlocks:
    """Blocks of words, seen as blocks of numbers. Payloads are words. See BlockStorage."""

    def __init__(self, words: BlockStorage, shapes: Sequence[KVShape], levels: Levels) -> None:
        """Take the blocks, the shape of each layer's numbers, and their form."""
        self._words = words
        self._shapes = shapes
        self._levels = levels

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
        levels = self._levels
        self._words.store(layer, slots, levels.quantize(keys), levels.quantize(values))

    def gather(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy whole blocks as float32 numbers. See BlockStorage."""
        keys, values = self._words.gather(layer, blocks)
        levels, shape = self._levels, self._shapes[layer]
        return levels.dequantize(keys, shape.key_dim), levels.dequantize(values, shape.value_dim)

    def pages(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Raise ValueError: blocks hold words."""
        raise ValueError("quantized blocks are no pages")
