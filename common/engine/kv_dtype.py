"""Dtype of keys and values: `engine.kv_cache_dtype`, and what it does not go with."""

import torch

from common.config import FP8_ON_A_CPU, EngineConfig
from common.engine.model_spec import ModelSpec
from pdserve.errors import SetupError


def check_kv_device(config: EngineConfig, device: torch.device) -> None:
    """Raise SetupError where the device has no attention over such keys and values."""
    if config.kv_cache_dtype == "int8" and device.type != "cpu":
        raise _refusal(config, "works on a CPU alone", "set it to fp8 or auto")
    is_tried = config.attention_backend == "reference"
    if config.kv_cache_dtype == "fp8" and device.type == "cpu" and not is_tried:
        raise _refusal(config, "is for a GPU", FP8_ON_A_CPU)


def with_kv_dtype(spec: ModelSpec, config: EngineConfig) -> ModelSpec:
    """Return the numbers of a model whose keys and values are stored as configured.

    Raises SetupError for a model whose keys hold more than keys.
    """
    if config.kv_cache_dtype == "auto":
        return spec
    if spec.has_key_biases:
        raise _refusal(config, "would round the ALiBi biases that this model's keys hold")
    return spec.with_quantized_kv(config.kv_cache_dtype)


def _refusal(config: EngineConfig, reason: str, remedy: str = "set it to auto") -> SetupError:
    return SetupError(f"engine.kv_cache_dtype {config.kv_cache_dtype} {reason}", remedy)
