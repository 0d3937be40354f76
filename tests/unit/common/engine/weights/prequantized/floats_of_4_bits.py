"""Writers of 4-bit floats of products: two inputs a byte, the first in its low bits."""

from dataclasses import dataclass

import torch

from tests.unit.common.engine.weights.prequantized.formats import compressed
from tests.unit.common.engine.weights.prequantized.writing import Written

NUMBERS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


@dataclass(frozen=True)
class Nvfp4:
    """FP8 scales of 16 inputs, and a number that divides them (compressed-tensors) or multiplies."""

    is_modelopt: bool = False

    @property
    def settings(self) -> dict[str, object]:
        """Section of config.json."""
        if self.is_modelopt:
            return {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
        return compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16)

    def __call__(self, weight: torch.Tensor) -> Written | None:
        """Draw a weight, with scales of all sizes; None for one whose rows are no whole groups."""
        rows, columns = weight.shape
        if columns % 16:
            return None
        places = torch.randint(0, 16, (rows, columns))
        scales = (torch.rand(rows, columns // 16) * 400).to(torch.float8_e4m3fn)
        packed = (places[:, ::2] | places[:, 1::2] << 4).to(torch.uint8)
        whole = torch.tensor(0.0007) if self.is_modelopt else torch.tensor([1300.0])
        wide = scales.float() * whole if self.is_modelopt else scales.float() / whole
        plain = torch.tensor(NUMBERS)[places] * wide.repeat_interleave(16, dim=1)
        parts = {"weight_scale": scales}
        if self.is_modelopt:
            parts |= {"weight": packed, "weight_scale_2": whole, "input_scale": torch.tensor(0.5)}
        else:
            parts |= {"weight_packed": packed, "weight_global_scale": whole}
            parts["input_global_scale"] = torch.tensor([2.0])
        return Written(parts, plain)


def packed_mxfp4(weight: torch.Tensor) -> Written:
    """Return compressed-tensors' MXFP4: powers of two for 32 inputs, their exponents plus 127."""
    rows, columns = weight.shape
    places = torch.randint(0, 16, (rows, columns))
    exponents = torch.randint(122, 127, (rows, columns // 32))
    packed = (places[:, ::2] | places[:, 1::2] << 4).to(torch.uint8)
    wide = (2.0 ** (exponents - 127)).repeat_interleave(32, dim=1)
    parts = {"weight_packed": packed, "weight_scale": exponents.to(torch.uint8)}
    return Written(parts, torch.tensor(NUMBERS)[places] * wide)


def quark(kind: str, layers: str = "", other: str = "") -> dict[str, object]:
    """Return a section of Quark, whose `layers` are of another kind."""
    by_layer = {layers: {"weight": {"dtype": other}}} if layers else {}
    named = {"weight": {"dtype": kind}, "input_tensors": None}
    return {"quant_method": "quark", "global_quant_config": named, "layer_quant_config": by_layer}


def quark_mxfp4(weight: torch.Tensor) -> Written:
    """Return Quark's MXFP4: as that of compressed-tensors, by another name."""
    written = packed_mxfp4(weight)
    parts = {
        "weight": written.parts["weight_packed"],
        "weight_scale": written.parts["weight_scale"],
    }
    return Written(parts, written.plain)
