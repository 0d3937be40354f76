"""MXFP4, as GPT-OSS stores its experts: blocks of 32 numbers in 4 bits with a power of two as their scale.

Of the experts' weights [E, K, N] the file holds `_blocks`, uint8 [E, N, K / 32, 16], and `_scales`, uint8
[E, N, K / 32].
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from common.engine.weights.prequantized.e2m1 import powers_of_two, unpacked_pairs
from common.engine.weights.prequantized.integers import Rows
from common.engine.weights.prequantized.packed import PackedWeight, Parts, Read
from common.engine.weights.prequantized.parts import Beside
from common.engine.weights.stored import StoredTensor

_MAIN = "_blocks"
_BLOCK, _BLOCK_BYTES = 32, 16


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """Format of GPT-OSS."""

    told: str = "MXFP4"
    endings: tuple[str, ...] = (_MAIN, "_scales")

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        for main in tensors:
            if main.endswith(_MAIN):
                yield _found(main.removesuffix(_MAIN), Beside(tensors, main))


def _found(name: str, beside: Beside) -> PackedWeight:
    shape = beside.needed(beside.main, ("U8",)).shape
    if len(shape) != 4 or shape[-1] != _BLOCK_BYTES or 0 in shape:
        raise beside.refusal(f"{beside.main} has the shape {list(shape)}, and holds no experts")
    beside.needed(f"{name}_scales", ("U8",), shape[:-1])
    num_experts, num_outputs, num_blocks, _ = shape
    plain = (num_experts, num_blocks * _BLOCK, num_outputs)
    return PackedWeight(name, plain, {r: f"{name}{r}" for r in ("_blocks", "_scales")}, _rows_of)


def _rows_of(parts: Parts) -> Rows:
    blocks, scales = parts["_blocks"], parts["_scales"]

    def rows(first: int, last: int) -> torch.Tensor:
        numbers = unpacked_pairs(blocks[first:last])
        numbers *= powers_of_two(scales[first:last])[..., None]
        return numbers.flatten(-2).transpose(1, 2)

    return rows
