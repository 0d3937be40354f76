"""Loading of a worker's model: the stage of its start that takes the weights from disk."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from common.config import EngineConfig
from common.engine.dtype import ChosenDtype
from common.engine.fused.select import quantized_format
from common.engine.kv_dtype import with_kv_dtype
from common.engine.model_spec import ModelSpec
from common.engine.stages import BeginStage
from common.engine.weights.choose import load
from common.engine.weights.context import within
from common.engine.weights.prequantized.keeping import keeps_integers
from common.engine.weights.size import told_weights


def load_weights(
    model_dir: Path,
    config: EngineConfig,
    chosen: ChosenDtype,
    device: torch.device,
    admit: Callable[[ModelSpec], object],
    stage: BeginStage,
) -> tuple[torch.nn.Module, ModelSpec]:
    """Load the model and its numbers, with weights and KV quantized as the configuration wants them.

    `admit` sees the numbers before weights are read. Raises SetupError, as it may.
    """

    def as_served(spec: ModelSpec) -> ModelSpec:
        # the fingerprint tells what was done in this order
        spec = within(spec, config.max_context_tokens)
        spec = spec.quantized(quantized_format(config) or "none")
        spec = with_kv_dtype(replace(spec, dtype_reason=chosen.reason), config)
        admit(spec)
        return spec

    keeps = device.type == "cpu" and keeps_integers(model_dir, config)
    began_s = time.monotonic()
    with stage("loading weights") as remark:
        rest = (chosen.dtype, device, as_served)
        model, spec = load(model_dir, config, *rest, keeps_integers=keeps)
        told = told_weights(model_dir, chosen.dtype, time.monotonic() - began_s, keeps)
        remark.text = f"{chosen.dtype}, {chosen.reason}; {told}"
    return model, spec
