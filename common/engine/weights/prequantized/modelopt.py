"""Checkpoints of NVIDIA's ModelOpt: FP8 with its scale beside it, and NVFP4.

Of NVFP4 `weight` holds uint8, and `weight_scale_2` is the number that multiplies all scales.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from common.engine.weights.prequantized.float4 import nvfp4
from common.engine.weights.prequantized.float8 import Float8
from common.engine.weights.prequantized.packed import PackedWeight, Read
from common.engine.weights.prequantized.parts import Beside
from common.engine.weights.prequantized.settings import Settings
from common.engine.weights.stored import StoredTensor

_TOLD = {
    "fp8": "ModelOpt FP8",
    "fp8_per_channel_per_token": "ModelOpt FP8",
    "nvfp4": "ModelOpt NVFP4",
    "w4a16_nvfp4": "ModelOpt NVFP4",  # activations stay full
    "mixed_precision": "ModelOpt mixed precision",
}


@dataclass(frozen=True, slots=True)
class ModelOpt:
    """Format of ModelOpt; each weight's own tensors say its kind."""

    told: str
    floats: Float8

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the settings. Raises SetupError for a kind that is not known."""
        settings.needs("quant_algo", *_TOLD)
        told = _TOLD[str(settings.fields["quant_algo"]).lower()]
        return cls(told, Float8(told))

    @property
    def endings(self) -> tuple[str, ...]:
        """Ends of names that only parts of quantized weights have."""
        return self.floats.endings

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        yield from self.floats.find(tensors, read)
        for main, stored in tensors.items():
            if main.endswith(".weight") and stored.dtype == "U8":
                yield nvfp4(main, Beside(tensors, main), "_scale_2", "multiplies")
