"""Decode step of Mamba 2 (Dao and Gu 2024) with the limits that its time steps have in chunks.

The chunked scan of `transformers` limits them and its decode step does not. So a state would depend on which
of the two has computed it, and a prompt that is computed again could go on otherwise.
"""

import math
from typing import Any

import torch
from torch.nn import functional

from common.engine.state.copied import Function, function_of, names_in, with_functions

_STEP = "mamba2_selective_state_update"


def has_limits(module: torch.nn.Module) -> bool:
    """Return True for a mixer whose chunks limit time steps."""
    return _STEP in names_in(module) and tuple(_limits(module)) != (0.0, math.inf)


def with_limits(module: torch.nn.Module) -> Function:
    """Return the forward of such a mixer, with the same limits in a decode step."""
    own, (least, most) = function_of(module, _STEP), _limits(module)

    def step(
        state: torch.Tensor,
        hidden: torch.Tensor,
        dt: torch.Tensor,
        *others: torch.Tensor,
        dt_bias: torch.Tensor,
        dt_softplus: bool,
        **kwargs: Any,
    ) -> Any:
        steps = functional.softplus(dt.float() + dt_bias.float()).clamp(least, most)
        return own(state, hidden, steps, *others, **kwargs)

    return with_functions(module, {_STEP: step})


def _limits(module: Any) -> tuple[float, float]:
    least, most = module.time_step_limit
    return float(least), float(most)
