"""Towers that a library beside `transformers` builds (timm): an empty one, since text needs none.

So Gemma 3n, FastVLM and PerceptionLM load for text where timm is not installed.
"""

from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING, MODEL_MAPPING_NAMES

_FOREIGN = "TimmWrapperModel"


class _EmptyTower(PreTrainedModel):  # type: ignore[misc]
    """Tower without a weight, which is never run."""


def leave_out_foreign_towers() -> None:
    """Let `transformers` build an empty tower where it would ask for timm; safe to repeat."""
    for kind, name in MODEL_MAPPING_NAMES.items():
        if name == _FOREIGN:
            MODEL_MAPPING.register(CONFIG_MAPPING[kind], _EmptyTower, exist_ok=True)
