"""Checkpoints of NVIDIA's ModelOpt: FP8 with its scale beside it, and NVFP4.

Of NVFP4 `weight` holds uint8, and `weight_scale_2` is the number that multiplies all scales.
"""

from common.engine.weights.prequantized.float4 import nvfp4
from common.engine.weights.prequantized.mixed_floats import MixedFloats
from common.engine.weights.prequantized.packed import PackedWeight
from common.engine.weights.prequantized.parts import Beside
from common.engine.weights.prequantized.settings import Settings

_TOLD = {
    "fp8": "ModelOpt FP8",
    "fp8_per_channel_per_token": "ModelOpt FP8",
    "nvfp4": "ModelOpt NVFP4",
    "w4a16_nvfp4": "ModelOpt NVFP4",  # activations stay full
    "mixed_precision": "ModelOpt mixed precision",
}


def modelopt(settings: Settings) -> MixedFloats:
    """Read the settings. Raises SetupError for a kind that is not known."""
    settings.needs("quant_algo", *_TOLD)
    return MixedFloats(_TOLD[str(settings.fields["quant_algo"]).lower()], _nvfp4)


def _nvfp4(name: str, beside: Beside) -> PackedWeight:
    return nvfp4(name, beside, "_scale_2", "multiplies")
