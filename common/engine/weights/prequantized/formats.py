"""Choice of the format of quantized weights, by the method that a folder's settings name."""

from common.engine.weights.prequantized.awq import Awq
from common.engine.weights.prequantized.bitsandbytes import BitsAndBytes
from common.engine.weights.prequantized.compressed import CompressedTensors
from common.engine.weights.prequantized.float8 import Float8
from common.engine.weights.prequantized.gptq import Gptq
from common.engine.weights.prequantized.modelopt import modelopt
from common.engine.weights.prequantized.mxfp4 import Mxfp4
from common.engine.weights.prequantized.packed import Format
from common.engine.weights.prequantized.quark import quark
from common.engine.weights.prequantized.settings import Settings
from common.engine.weights.prequantized.torchao import TorchAo


def choose_format(settings: Settings) -> Format:
    """Return the format of a method. Raises SetupError for one that is not known, or a kind of it."""
    match settings.method:
        case "awq":
            return Awq.of(settings)
        case "gptq":
            return Gptq.of(settings)
        case "compressed-tensors":
            return CompressedTensors.of(settings)
        case "fp8":
            return Float8.of_blocks(settings)
        case "fbgemm_fp8":
            return Float8("FBGEMM FP8")
        case "modelopt":
            return modelopt(settings)
        case "quark":
            return quark(settings)
        case "mxfp4":
            return Mxfp4()
        case "bitsandbytes":
            return BitsAndBytes()
        case "torchao":
            return TorchAo()
        case _:
            raise settings.refusal()
