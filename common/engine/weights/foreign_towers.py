"""Towers that a library beside `transformers` builds (timm): an empty one, since text needs none.

So Gemma 3n, FastVLM and PerceptionLM load for text where timm is not installed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING, MODEL_MAPPING_NAMES

_FOREIGN = "TimmWrapperModel"


class _EmptyTower(PreTrainedModel):  # type: ignore[misc]
    """Tower without a weight, which is never run."""


@contextmanager
def no_foreign_towers(config: PreTrainedConfig) -> Iterator[None]:
    """Have `transformers` build, inside the block, an empty tower where a model would ask for timm.

    Only configurations inside `config` are looked at: importing those of other models may import timm.
    """
    before = dict(MODEL_MAPPING._extra_content)
    for part in _parts(config):
        if MODEL_MAPPING_NAMES.get(part.model_type) == _FOREIGN:
            MODEL_MAPPING.register(type(part), _EmptyTower, exist_ok=True)
    try:
        yield
    finally:
        # `transformers` has no public way to take a registration back
        MODEL_MAPPING._extra_content = before


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Yield the configurations inside another, and inside those."""
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            yield part
            yield from _parts(part)
