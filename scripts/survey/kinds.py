"""Model types that write text, and the class of `transformers` that computes each."""

from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from common.engine.weights.text_part import multimodal_class

_MULTIMODAL = {
    **MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    **MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
}


def all_kinds() -> list[str]:
    """Return every model type with a causal LM head, alone or inside a multimodal model."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *_MULTIMODAL})


def architecture(kind: str) -> str:
    """Return the name of the class that a checkpoint of this type names in its config.json."""
    name = _MULTIMODAL.get(kind) or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    return name if isinstance(name, str) else name[0]


def is_multimodal(kind: str) -> bool:
    """Return True if checkpoints of this type see or hear beside reading."""
    return kind in _MULTIMODAL


def class_and_config(config: PreTrainedConfig) -> tuple[Any, PreTrainedConfig]:
    """Return the class that computes a model, and the configuration that this class takes."""
    config.architectures = [architecture(config.model_type)]
    if found := multimodal_class(config):
        return found, config
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    is_text = causal.config_class is config.sub_configs.get("text_config")
    return causal, config.get_text_config() if is_text else config
