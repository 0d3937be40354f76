"""Floats of 8 bits with scales beside them, and 4-bit floats: each weight's own tensors tell which it has."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from common.engine.weights.prequantized.float8 import Float8
from common.engine.weights.prequantized.packed import PackedWeight, Read
from common.engine.weights.prequantized.parts import Beside
from common.engine.weights.stored import StoredTensor


@dataclass(frozen=True, slots=True)
class MixedFloats:
    """Format whose `weight` holds FP8, or pairs of 4-bit floats as uint8, which `float4` takes."""

    told: str
    float4: Callable[[str, Beside], PackedWeight]
    more_endings: tuple[str, ...] = ()

    @property
    def endings(self) -> tuple[str, ...]:
        """Ends of names that only parts of quantized weights have."""
        return (*Float8(self.told).endings, *self.more_endings)

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        yield from Float8(self.told).find(tensors, read)
        for main, stored in tensors.items():
            if main.endswith(".weight") and stored.dtype == "U8":
                yield self.float4(main, Beside(tensors, main))
