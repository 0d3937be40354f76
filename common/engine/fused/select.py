"""Choosing the forward pass: fused for the families we know, `transformers`' own modules for the rest."""

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.device_inputs import DeviceInputs, ToDevice, on_host
from common.engine.fused.decoder import FusedDecoder
from common.engine.fused.families import fuse
from common.engine.fused.ops import FusedOps, TorchOps
from common.engine.fused.weights import DecoderWeights
from common.engine.general import GeneralModel
from common.engine.model_runner import TokenModel


def select_model(
    model: torch.nn.Module, fusion: str, backend: AttentionBackend, device: torch.device
) -> TokenModel:
    """The fastest forward pass that fits; `fusion` is "auto" or "off"."""
    to_device: ToDevice = on_host if device.type == "cpu" else DeviceInputs(device).put
    weights = fuse(model) if fusion == "auto" else None
    if weights is None:
        return GeneralModel(model, backend, to_device)
    return FusedDecoder(weights, _select_ops(weights, device), backend, to_device)


def _select_ops(weights: DecoderWeights, device: torch.device) -> FusedOps:
    if device.type != "cpu":
        return TorchOps()
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.fused.cpu_ops import CpuOps

    return CpuOps() if CpuOps.fits(weights) else TorchOps()
