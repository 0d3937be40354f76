"""Attention modules that several layers share, and that are told for which of them they run: Zamba 2."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

_NO_LAYER = -1


def name_layers(model: torch.nn.Module) -> None:
    """Let each module without a layer of its own have the number of the layer for which it runs."""
    for module in model.modules():
        if getattr(module, "layer_idx", None) == _NO_LAYER:
            module.forward = _named(module)


def _named(module: Any) -> Callable[..., Any]:
    own = module.forward

    @wraps(own)
    def forward(*args: Any, layer_idx: int, **kwargs: Any) -> Any:
        module.layer_idx = layer_idx
        return own(*args, layer_idx=layer_idx, **kwargs)

    return forward
