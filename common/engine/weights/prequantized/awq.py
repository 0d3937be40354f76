"""AWQ in 4 bits, as AutoAWQ's GEMM kernels read it (Lin et al. 2023).

Of a product with K inputs and N outputs, `qweight` holds int32 [K, N / 8], `qzeros` int32 [G, N / 8] and
`scales` [G, N]. A word holds eight outputs, in the order that those kernels take them out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch

from common.engine.weights.prequantized.integers import (
    GroupedIntegers,
    groups_in_order,
    unpacked,
)
from common.engine.weights.prequantized.packed import IntegerForm, PackedWeight, Parts, Read
from common.engine.weights.prequantized.parts import FLOATS, Beside
from common.engine.weights.prequantized.settings import Settings
from common.engine.weights.stored import StoredTensor

_MAIN = ".qweight"
_IN_WORD = 8
_ORDER = (2, 4)  # a word holds, from its lowest bits, the outputs 0, 2, 4 and 6, then 1, 3, 5 and 7


@dataclass(frozen=True, slots=True)
class Awq:
    """Format of AutoAWQ's checkpoints; `group_size` inputs share a scale, -1: all."""

    group_size: int
    told: str = "AWQ 4-bit"
    endings: tuple[str, ...] = (_MAIN, ".qzeros", ".scales")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the settings. Raises SetupError for a kind that is not known."""
        settings.needs("bits", 4)
        settings.needs("version", "gemm", None)
        settings.needs("format", "gemm", None)
        settings.needs("zero_point", True, None)
        settings.needs("backend", "auto", "autoawq", None)
        return cls(settings.number("group_size", 128))

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        for main in tensors:
            if main.endswith(_MAIN):
                yield self._found(main.removesuffix(_MAIN), Beside(tensors, main))

    def _found(self, layer: str, beside: Beside) -> PackedWeight:
        num_inputs, words = beside.matrix("I32")
        num_groups = beside.count_groups(num_inputs, self.group_size)
        beside.needed(f"{layer}.qzeros", ("I32",), (num_groups, words))
        scales = beside.needed(f"{layer}.scales", FLOATS, (num_groups, words * _IN_WORD))
        parts = {role: f"{layer}.{role}" for role in ("qweight", "qzeros", "scales")}
        shape = (words * _IN_WORD, num_inputs)
        form = IntegerForm(4, num_groups, False, scales.is_wide)
        return PackedWeight(f"{layer}.weight", shape, parts, self._numbers_of, form)

    def _numbers_of(self, parts: Parts) -> GroupedIntegers:
        words, scales = parts["qweight"], parts["scales"]

        def levels(first: int, last: int) -> torch.Tensor:
            return _by_output(words[:, first // _IN_WORD : -(-last // _IN_WORD)])

        in_order = groups_in_order(len(words), len(scales), self.group_size)
        zeros = _by_output(parts["qzeros"]).float()
        return GroupedIntegers(levels, scales.T.float(), zeros, in_order)


def _by_output(words: torch.Tensor) -> torch.Tensor:
    """Return the outputs in words [K, n] in their order, uint8 [n * 8, K]."""
    numbers = unpacked(words, 4).view(*words.shape, *_ORDER)
    return numbers.permute(1, 3, 2, 0).flatten(0, 2)
