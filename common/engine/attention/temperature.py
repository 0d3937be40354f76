"""Scaling of queries by position (Llama 4's "temperature tuning" of layers without rotary).

Its module counts positions from the first row of a call, which in a ragged batch is another sequence's. So
the module is told not to scale, and the queries are scaled by the positions of the step.
"""

from typing import Any

import torch

_NAMES = ("attn_temperature_tuning", "floor_scale", "attn_scale", "use_rope")


def take_over(model: torch.nn.Module) -> bool:
    """Stop the model's modules from scaling queries; return True if there are such modules."""
    tuning = [module for module in model.modules() if _is_tuned(module)]
    for module in tuning:
        module.attn_temperature_tuning = False
    return bool(tuning)


def scaled_by_position(
    module: Any, query: torch.Tensor, positions: torch.Tensor | None
) -> torch.Tensor:
    """Return `query` [1, heads, T, dim] scaled by `positions` [T], if the module's configuration says so.

    Formula of `transformers`: 1 + attn_scale * log(1 + floor((position + 1) / floor_scale)).
    """
    if positions is None or not _is_tuned(module):
        return query
    steps = torch.floor((positions.float() + 1.0) / module.floor_scale)
    factors = torch.log1p(steps) * module.attn_scale + 1.0
    return (query * factors[:, None]).to(query.dtype)


def _is_tuned(module: Any) -> bool:
    if not all(hasattr(module, name) for name in _NAMES):
        return False
    return bool(getattr(module.config, "attn_temperature_tuning", False)) and not module.use_rope
