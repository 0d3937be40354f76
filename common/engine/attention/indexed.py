"""Attention to the positions that an indexer chooses (DeepSeek's sparse attention), where it chooses all.

The indexer keeps the `index_topk` positions of the highest score. The context is no longer than that here
(weights/spec.py), so there is nothing to choose: the indexer need not run, nor keep keys of its own.
"""

from collections.abc import Mapping
from typing import Any

import torch

INDEXED = "indexed_attention"  # kind of layer
_MAKE_MASK = "build_attention_mask_from_topk"
# Each gave the tokens of `transformers` in the survey (docs/use/model-table.md); others are refused.
INDEXED_FAMILIES = frozenset(
    {
        "axk2",
        "deepseek_v32",
        "dots3_note_text",
        "glm_moe_dsa",
        "hy_v4",
        "mistral_large4_text",
    }
)
INDEXED_BY_LAYER = frozenset({"dots3_note_text"})  # have an indexer where a layer's kind says so


def attend_to_all(model: torch.nn.Module) -> None:
    """Let layers with an indexer attend to all positions in steps of ours; their own way stays as it is."""
    for module in list(model.modules()):
        # layers that share the choice of one before them have an indexer too: None
        if hasattr(module, "indexer") and hasattr(module, "layer_idx"):
            _Layer(module)


class _Layer:
    """Attention layer, which asks its indexer only in steps that are not ours."""

    def __init__(self, module: Any) -> None:
        self._attend = module.forward
        self._is_ours = False
        self._chosen = torch.empty(0)  # read by nobody
        self._mask = torch.empty(1, 1, 1, 1)  # cut, and read by nobody
        module.forward = self._forward
        if module.indexer is not None:
            self._choose = module.indexer.forward
            module.indexer.forward = self._index
        if hasattr(module, _MAKE_MASK):  # GLM 5.3
            self._make = getattr(module, _MAKE_MASK)
            setattr(module, _MAKE_MASK, self._make_mask)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if "paged_attention" not in kwargs:
            return self._attend(*args, **kwargs)
        self._is_ours = True
        try:
            return self._attend(*args, **kwargs | self._instead(kwargs))
        finally:
            self._is_ours = False

    def _instead(self, kwargs: Mapping[str, object]) -> dict[str, object]:
        earlier = "prev_topk_indices"
        shared = {earlier: self._chosen} if earlier in kwargs else {}
        return {"attention_mask": self._mask, **shared}

    def _index(self, *args: Any, **kwargs: Any) -> Any:
        return self._chosen if self._is_ours else self._choose(*args, **kwargs)

    def _make_mask(self, *args: Any, **kwargs: Any) -> Any:
        return None if self._is_ours else self._make(*args, **kwargs)
