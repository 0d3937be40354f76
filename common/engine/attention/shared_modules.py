"""Attention modules that several layers share, and that are told for which of them they run: Zamba."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

_FAMILIES = {"zamba", "zamba2"}


def name_layers(model: torch.nn.Module) -> None:
    """Let each shared module have the number of the layer for which it runs."""
    if getattr(getattr(model, "config", None), "model_type", None) not in _FAMILIES:
        return
    for module in model.modules():
        if hasattr(module, "layer_idx") and hasattr(module, "q_proj"):
            module.forward = _named(module)


def _named(module: Any) -> Callable[..., Any]:
    own = module.forward

    @wraps(own)
    def forward(*args: Any, layer_idx: int, **kwargs: Any) -> Any:
        module.layer_idx = layer_idx
        return own(*args, layer_idx=layer_idx, **kwargs)

    return forward
