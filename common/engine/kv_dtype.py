"""Dtype of keys and values: `engine.kv_cache_dtype`, and what it does not go with."""

import torch

from common.config import EngineConfig
from common.engine.model_spec import ModelSpec
from pdserve.errors import SetupError


def check_kv_device(config: EngineConfig, device: torch.device) -> None:
    """Raise SetupError where keys and values are to be quantized on a device other than a CPU."""
    if config.kv_cache_dtype != "auto" and device.type != "cpu":
        raise _refusal(config, "works on a CPU alone")


def with_kv_dtype(spec: ModelSpec, config: EngineConfig) -> ModelSpec:
    """Return the numbers of a model whose keys and values are stored as configured.

    Raises SetupError for a model whose keys hold more than keys.
    """
    if config.kv_cache_dtype == "auto":
        return spec
    if spec.has_key_biases:
        raise _refusal(config, "would round the ALiBi biases that this model's keys hold")
    return spec.with_quantized_kv(config.kv_cache_dtype)


def _refusal(config: EngineConfig, reason: str) -> SetupError:
    return SetupError(f"engine.kv_cache_dtype {config.kv_cache_dtype} {reason}", "set it to auto")
