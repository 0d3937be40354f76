"""Folders with tiny random models that see beside reading, and the models as `transformers` runs them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from common.engine.weights.text_part import multimodal_class
from scripts.survey.shrink import tiny_config
from tests.unit.common.engine.tiny_models import FAMILIES

_TEXT = FAMILIES["llama"] | {"tie_word_embeddings": True}
_VISION: dict[str, object] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
    # as Qwen names the same
    "depth": 1,
    "embed_dim": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
    "deepstack_visual_indexes": [0],
}
_MROPE = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]}
# how each family's language model differs from the llama shape
SEEING: dict[str, dict[str, object]] = {
    "qwen2_vl": {"rope_parameters": _MROPE},
    "qwen2_5_vl": {"rope_parameters": _MROPE},
    "qwen3_vl": {"rope_parameters": _MROPE},
    "mistral3": {"model_type": "mistral", "sliding_window": 8},
    "gemma3": FAMILIES["gemma3_text"],
    "smolvlm": {"model_type": "llama", "tie_word_embeddings": False},
    "llava": {"model_type": "llama"},
}


def save_multimodal(folder: Path, family: str) -> Any:
    """Write config.json and model.safetensors of a random model of `family`; return the model."""
    torch.manual_seed(0)
    text = _TEXT | SEEING[family]
    config = AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=dict(_VISION),
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    return save_random(folder, config)


def save_tiny(folder: Path, kind: str) -> Any:
    """Do the same for the tiny configuration of a model type that the survey tries."""
    torch.manual_seed(0)
    return save_random(folder, tiny_config(kind))


def save_random(folder: Path, config: Any) -> Any:
    """Write config.json and model.safetensors of a model with random weights; return the model."""
    kind: Any = multimodal_class(config)
    model = kind(config).eval()
    for name, parameter in model.named_parameters():
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.4)
    model.save_pretrained(folder)
    return model
