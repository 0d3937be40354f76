"""Loading of a worker's model: the stage of its start that takes the weights from disk."""

import time
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
from common.engine.weights.plain import Admit
from common.engine.weights.prequantized.keeping import keeps_integers
from common.engine.weights.size import told_weights


def load_weights(
    model_dir: Path,
    config: EngineConfig,
    chosen: ChosenDtype,
    device: torch.device,
    admit: Admit,
    stage: BeginStage,
) -> tuple[torch.nn.Module, ModelSpec]:
    """Load the model and its numbers, with weights and KV quantized as the configuration wants them.

    `admit` is that of load. Raises SetupError.
    """

    def admit_as_served(spec: ModelSpec) -> None:
        admit(with_kv_dtype(within(spec, config.max_context_tokens), config))

    keeps = device.type == "cpu" and keeps_integers(model_dir, config)
    began_s = time.monotonic()
    with stage("loading weights") as remark:
        rest = (chosen.dtype, device, admit_as_served)
        model, spec = load(model_dir, config, *rest, keeps_integers=keeps)
        told = told_weights(model_dir, chosen.dtype, time.monotonic() - began_s, keeps)
        remark.text = f"{chosen.dtype}, {chosen.reason}; {told}"
    spec = within(spec, config.max_context_tokens)
    rounded = quantized_format(config) or "none"
    spec = replace(spec, dtype_reason=chosen.reason).quantized(rounded)
    return model, with_kv_dtype(spec, config)
