"""Writers of each format, from its definition."""

import json
from dataclasses import dataclass

import torch

from tests.unit.common.engine.weights.prequantized.writing import (
    Written,
    random_levels,
    random_scales,
    random_zeros,
    spread,
    words,
)

GROUP = 32
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
_E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def awq(weight: torch.Tensor) -> Written:
    """Return AutoAWQ's: eight outputs a word, in its order."""
    rows, columns = weight.shape
    groups = columns // GROUP
    levels, zeros = random_levels(weight.shape, 4), random_zeros(rows, groups)
    scales, group_of = random_scales(rows, groups), torch.arange(columns) // GROUP
    parts = {
        "qweight": words(levels.T, 4, _AWQ_ORDER),
        "qzeros": words(zeros.T, 4, _AWQ_ORDER),
        "scales": scales.T,
    }
    return Written(parts, (levels - spread(zeros, group_of)) * spread(scales, group_of))


@dataclass(frozen=True)
class Gptq:
    """GPTQ's: the inputs of a word in order."""

    bits: int = 4
    group: int = GROUP  # -1: all inputs
    has_act_order: bool = False
    is_second: bool = False  # version of the format
    has_g_idx: bool = True

    @property
    def settings(self) -> dict[str, object]:
        """Section of config.json."""
        found: dict[str, object] = {
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group,
            "desc_act": self.has_act_order,
            "sym": False,
        }
        return found | ({"checkpoint_format": "gptq_v2"} if self.is_second else {})

    def __call__(self, weight: torch.Tensor) -> Written:
        """Draw a weight; a zero point of the smallest value there is among its zero points."""
        rows, columns = weight.shape
        size = columns if self.group == -1 else self.group
        levels = random_levels(weight.shape, self.bits)
        zeros = random_zeros(rows, columns // size, bits=self.bits)
        zeros[3, 0] = 0
        scales = random_scales(rows, columns // size, bits=self.bits)
        group_of = torch.arange(columns) // size
        if self.has_act_order:
            group_of = group_of[torch.randperm(columns)]
        stored_zeros = words(zeros.T, self.bits)
        if not self.is_second:
            stored_zeros -= sum(1 << place for place in range(0, 32, self.bits))  # of a whole word
        parts = {
            "qweight": words(levels, self.bits).T,
            "qzeros": stored_zeros,
            "scales": scales.T,
        }
        if self.has_g_idx:
            parts["g_idx"] = group_of.int()
        return Written(parts, (levels - spread(zeros, group_of)) * spread(scales, group_of))


@dataclass(frozen=True)
class Packed:
    """Packed integers of compressed-tensors, in words along the inputs."""

    bits: int = 4
    group: int = GROUP
    is_symmetric: bool = True
    has_act_order: bool = False

    @property
    def settings(self) -> dict[str, object]:
        """Section of config.json."""
        return compressed(
            "pack-quantized", num_bits=self.bits, type="int", symmetric=self.is_symmetric
        )

    def __call__(self, weight: torch.Tensor) -> Written:
        """Draw a weight."""
        rows, columns = weight.shape
        groups, half = columns // self.group, 1 << self.bits - 1
        levels = random_levels(weight.shape, self.bits)
        scales = random_scales(rows, groups, bits=self.bits)
        zeros = random_zeros(rows, groups, bits=self.bits)
        group_of = torch.arange(columns) // self.group
        if self.has_act_order:
            group_of = group_of[torch.randperm(columns)]
        parts = {
            "weight_packed": words(levels, self.bits),
            "weight_scale": scales.bfloat16(),
            "weight_shape": torch.tensor([rows, columns]),
        }
        if self.is_symmetric:
            zeros = torch.full_like(zeros, half)
        else:
            parts["weight_zero_point"] = words(zeros.T, self.bits).T
        if self.has_act_order:
            parts["weight_g_idx"] = group_of.int()
        wide = spread(parts["weight_scale"], group_of)
        return Written(parts, (levels - spread(zeros, group_of)) * wide)


def compressed(form: str, **weights: object) -> dict[str, object]:
    """Return a section of compressed-tensors."""
    group = {"targets": ["Linear"], "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def whole_int8(weight: torch.Tensor) -> Written:
    """Return int8 by row, with a zero point."""
    levels = torch.randint(-128, 128, weight.shape).to(torch.int8)
    scales = random_scales(len(weight), 1, bits=8)
    zeros = torch.randint(-3, 4, (len(weight), 1)).to(torch.int8)
    parts = {"weight": levels, "weight_scale": scales, "weight_zero_point": zeros}
    return Written(parts, (levels.float() - zeros.float()) * scales.float())


@dataclass(frozen=True)
class Floats:
    """FP8 with its scales: of blocks, of rows, or one."""

    scale: str = "weight_scale"
    rows: int = 0  # that share a scale; 0: all
    columns: int = 0
    has_input_scale: bool = False
    is_flat: bool = False  # scales without dimensions of size 1

    def __call__(self, weight: torch.Tensor) -> Written:
        """Draw a weight."""
        height, width = weight.shape
        rows, columns = self.rows or height, self.columns or width
        numbers = (torch.randn(weight.shape) * 60).to(torch.float8_e4m3fn)
        scales = (torch.rand(-(-height // rows), -(-width // columns)) + 0.5) * 0.01
        plain = numbers.float()
        for row in range(height):
            for column in range(0, width, columns):
                plain[row, column : column + columns] *= scales[row // rows, column // columns]
        parts = {"weight": numbers, self.scale: scales.squeeze() if self.is_flat else scales}
        if self.has_input_scale:
            parts["input_scale"] = torch.tensor(0.5)
        return Written(parts, plain)


def bytes_of_rows(weight: torch.Tensor) -> Written:
    """Return LLM.int8's: `SCB` is the largest number of a row."""
    levels = torch.randint(-127, 128, weight.shape).to(torch.int8)
    largest = torch.rand(len(weight)) + 0.5
    parts = {"weight": levels, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return Written(parts, levels.float() * (largest / 127)[:, None])


def mxfp4(weight: torch.Tensor) -> Written | None:
    """Return GPT-OSS's experts [E, K, N]: blocks of 32 inputs, the first of a byte in its low bits."""
    if weight.dim() == 2:
        return None
    experts, inputs, outputs = weight.shape
    places = torch.randint(0, 16, (experts, outputs, inputs))
    exponents = torch.randint(122, 127, (experts, outputs, inputs // 32))
    packed = places[..., ::2] | places[..., 1::2] << 4
    parts = {
        "_blocks": packed.unflatten(-1, (-1, 16)).to(torch.uint8),
        "_scales": exponents.to(torch.uint8),
    }
    numbers = torch.tensor(_E2M1)[places] * 2.0 ** (exponents - 127).repeat_interleave(32, -1)
    return Written(parts, numbers.transpose(1, 2))


@dataclass(frozen=True)
class Nf4:
    """4-bit numbers of bitsandbytes: the first of a byte in its high bits, blocks across rows."""

    is_nested: bool = False

    def __call__(self, weight: torch.Tensor) -> Written:
        """Draw a weight; `absmax` is itself in blocks of 256, where it is nested."""
        count = weight.numel()
        places, numbers = torch.randint(0, 16, (count,)), torch.linspace(-1, 1, 16)
        state = {"blocksize": 64, "shape": list(weight.shape), "quant_type": "nf4"}
        largest = torch.rand(count // 64) + 0.5
        parts = {
            "weight": (places[::2] << 4 | places[1::2]).to(torch.uint8)[:, None],
            "weight.quant_map": numbers,
            "weight.absmax": largest,
        }
        if self.is_nested:
            of_nested, steps = torch.rand(256), torch.randint(0, 256, (count // 64,))
            outer = torch.rand(-(-count // 64 // 256)) + 0.5
            largest = of_nested[steps] * outer[torch.arange(count // 64) // 256] + 0.25
            parts["weight.absmax"] = steps.to(torch.uint8)
            parts["weight.nested_quant_map"], parts["weight.nested_absmax"] = of_nested, outer
            state |= {"nested_blocksize": 256, "nested_offset": 0.25}
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        parts["weight.quant_state.bitsandbytes__nf4"] = text
        plain = numbers[places] * largest.repeat_interleave(64)
        return Written(parts, plain.view(weight.shape))
