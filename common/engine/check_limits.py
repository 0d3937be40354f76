"""Limits of the differences that a self-check (self_check.py) puts down to rounding."""

from dataclasses import dataclass

import torch

from common.engine.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class CheckLimits:
    """Relative limits. Right models differ by rounding, 1e-5 at most in float32.

    Wrong ones differ by a third or more in some layer, though perhaps by 1 % in the logits.
    """

    first_layer: float  # nothing has summed up before it
    layer: float
    end: float  # of logits and states, which all positions have a part in
    share_left_out: float = 0.0  # of a layer's positions, those that differ most


_EXACT = CheckLimits(0.001, 0.001, 0.001)
_HALF = CheckLimits(0.03, 0.2, 0.2)  # in the first layer 0.5 % is measured in bfloat16
# 8 bits for a head of which one number is far larger than the rest: sqrt(channels) / 440 at most, and 1 / 16
# as floats. A position early in a text may draw all attention or not (in SmolLM2 from layer 12 on). Rounding
# may turn one over, also where both sides round: not always to the same level.
_QUANTIZED = CheckLimits(0.06, 0.2, 0.4, share_left_out=0.25)


def limits_of(spec: ModelSpec) -> CheckLimits:
    """Return the limits for a model's dtype, and for that of its keys and values."""
    if spec.kv_quantization != "none":
        return _QUANTIZED
    return _EXACT if spec.dtype == "float32" else _HALF


def without_worst(
    ours: torch.Tensor, own: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave out that share of rows [rows, n], those that differ most; none where there is a NaN."""
    errors = (ours - own).norm(dim=1)
    num_left_out = 0 if bool(errors.isnan().any()) else int(len(errors) * share)
    kept = errors.argsort()[: len(errors) - num_left_out]
    return ours[kept], own[kept]
