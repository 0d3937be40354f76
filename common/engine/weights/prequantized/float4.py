"""4-bit floats of products, by compressed-tensors and ModelOpt: NVFP4 and MXFP4.

Of K inputs and N outputs the file holds uint8 [N, K / 2], E2M1 numbers in pairs. NVFP4 (NVIDIA 2025) has an
FP8 scale for 16 inputs, [N, K / 16], and a float32 number for all of them: compressed-tensors divides scales
by it, ModelOpt multiplies. MXFP4 has a power of two for 32 inputs, its exponent as uint8 [N, K / 32].
"""

from typing import Literal

import torch

from common.engine.weights.prequantized.e2m1 import powers_of_two, unpacked_pairs
from common.engine.weights.prequantized.integers import Rows
from common.engine.weights.prequantized.packed import PackedWeight, Parts
from common.engine.weights.prequantized.parts import Beside

Apply = Literal["divides", "multiplies"]
_NV_GROUP, _MX_GROUP = 16, 32


def nvfp4(name: str, beside: Beside, whole: str, applied: Apply) -> PackedWeight:
    """Return the weight `name`, whose scales the number `whole` divides or multiplies.

    Raises SetupError for a broken one.
    """
    shape = _shape(beside)
    scale, number = f"{name}_scale", f"{name}{whole}"
    beside.needed(scale, ("F8_E4M3",), _grid(shape, _NV_GROUP, beside))
    if beside.needed(number, ("F32",)).shape not in ((), (1,)):
        raise beside.refusal(f"{number} is more than one number")
    parts = {"": beside.main, "scale": scale, "whole": number}

    def rows_of(tensors: Parts) -> Rows:
        scales, of_all = tensors["scale"].float(), tensors["whole"].reshape(())
        scales = scales / of_all if applied == "divides" else scales * of_all
        return _rows(tensors[""], scales, _NV_GROUP)

    return PackedWeight(name, shape, parts, rows_of)


def mxfp4(name: str, beside: Beside) -> PackedWeight:
    """Return the weight `name`, whose scales are powers of two. Raises SetupError for a broken one."""
    shape = _shape(beside)
    scale = f"{name}_scale"
    beside.needed(scale, ("U8", "F8_E8M0"), _grid(shape, _MX_GROUP, beside))

    def rows_of(tensors: Parts) -> Rows:
        exponents = tensors["scale"].view(torch.uint8)
        return _rows(tensors[""], powers_of_two(exponents), _MX_GROUP)

    return PackedWeight(name, shape, {"": beside.main, "scale": scale}, rows_of)


def _shape(beside: Beside) -> tuple[int, int]:
    num_outputs, num_bytes = beside.matrix("U8")
    return num_outputs, 2 * num_bytes


def _grid(shape: tuple[int, int], group: int, beside: Beside) -> tuple[int, int]:
    """Return the shape of the scales. Raises SetupError where groups do not tile a row."""
    num_outputs, num_inputs = shape
    if num_inputs % group:
        raise beside.refusal(
            f"{beside.main} has {num_inputs} inputs, which are no groups of {group}"
        )
    return num_outputs, num_inputs // group


def _rows(stored: torch.Tensor, scales: torch.Tensor, group: int) -> Rows:
    def rows(first: int, last: int) -> torch.Tensor:
        numbers = unpacked_pairs(stored[first:last]).unflatten(-1, (-1, group))
        return numbers.mul_(scales[first:last, :, None]).flatten(-2)

    return rows
