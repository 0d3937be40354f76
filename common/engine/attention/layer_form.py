"""Form of a layer's attention, from what its module of `transformers` passes and its configuration says."""

from typing import Any

import torch

from common.engine.attention.form import (
    ALIBI,
    ALIBI_FAMILIES,
    CHUNKS,
    SINKS,
    SOFTCAP,
    AttentionForm,
)

_SLIDING, _CHUNKED = "sliding_attention", "chunked_attention"
# families whose mask has the window in every layer, and whose modules do not pass it
_WINDOW_BY_MASK = {"phimoe"}
_WITH_SINKS = {"flint", "gpt_oss", "granite_swa", "granitemoe_swa", "hy_v4", "mimo_v2_flash"}


def layer_form(
    module: torch.nn.Module,
    layer: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> AttentionForm:
    """Return the form of a layer that passes these to its attention; masks that it would pass add to it."""
    return AttentionForm(
        scale,
        window if window is not None else _masked_window(module, layer),
        _chunk(getattr(module, "config", None), layer),
        softcap or None,
        None if sinks is None else sinks.detach().float().contiguous(),
    )


def unhonoured(
    module: torch.nn.Module,
    layer: int | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> set[str]:
    """Return what the layer's module has and does not pass on, so that `transformers` may forget it too."""
    lacks = set()
    if softcap is None and getattr(module, "attn_logit_softcapping", None):
        lacks.add("a soft cap on scores (softcap) that it does not pass on")
    if sinks is None and getattr(module, "sinks", None) is not None:
        lacks.add("attention sinks (s_aux) that it does not pass on")
    if window is None and _has_window(module, layer) and _masked_window(module, layer) is None:
        lacks.add("a sliding window by mask alone")
    return lacks


def extras_of(text: Any) -> tuple[str, ...]:
    """Return the extras (AttentionForm.extras) of a model, by the configuration of its text model.

    Used before a model is loaded. A layer's form, once it attends, has the last word.
    """
    kinds = getattr(text, "layer_types", None) or ()
    found = {
        CHUNKS: any(_chunk(text, layer) for layer in range(len(kinds))),
        SOFTCAP: getattr(text, "attn_logit_softcapping", None),
        SINKS: text.model_type in _WITH_SINKS,
        ALIBI: text.model_type in ALIBI_FAMILIES,
    }
    return tuple(name for name, is_there in found.items() if is_there)


def _chunk(config: Any, layer: int) -> int | None:
    """Return the chunk's size of a layer with chunked attention; None where no context fills one."""
    kinds = getattr(config, "layer_types", None)
    if not kinds or kinds[layer] != _CHUNKED:
        return None
    size: int = config.attention_chunk_size
    return size if size < getattr(config, "max_position_embeddings", size + 1) else None


def _masked_window(module: torch.nn.Module, layer: int | None) -> int | None:
    """Return the window that the mask of `transformers` has for a layer, where it is known to have one."""
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    is_known = bool(kinds) or getattr(config, "model_type", None) in _WINDOW_BY_MASK
    if not is_known or not _has_window(module, layer):
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window


def _has_window(module: torch.nn.Module, layer: int | None) -> bool:
    """Return True if the layer, or the configuration for it, has a window shorter than the context."""
    config = getattr(module, "config", None)
    window = getattr(module, "sliding_window", None) or getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not isinstance(window, int) or (kinds and layer is not None and kinds[layer] != _SLIDING):
        return False
    return window < getattr(config, "max_position_embeddings", window + 1)
