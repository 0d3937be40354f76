"""Choice of the forward pass: fused for families we know, `transformers`' own modules for the rest."""

from collections.abc import Callable

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.device_inputs import DeviceInputs, ToDevice, on_host
from common.engine.fused.decoder import FusedDecoder
from common.engine.fused.families import activation_of, fuse
from common.engine.fused.ops import FusedOps, TorchOps
from common.engine.fused.weights import Activation, AsStored, Layout
from common.engine.kernel_checks.verdicts import trusted_products
from common.engine.model_runner import TokenModel
from common.engine.transformers_model import TransformersModel


def select_model(
    model: torch.nn.Module, fusion: str, device: torch.device
) -> Callable[[AttentionBackend], TokenModel]:
    """Lay a model's weights out for the fastest forward pass; what is returned makes it for a backend.

    `fusion` is "auto" or "off". All passes that are made share the weights.
    """
    to_device: ToDevice = on_host if device.type == "cpu" else DeviceInputs(device).put
    activation = activation_of(model) if fusion == "auto" else None
    if activation is not None:
        dtype = next(model.parameters()).dtype
        layout, ops = _fastest(device, str(dtype).removeprefix("torch."), activation)
        weights = fuse(model, activation, layout)
        if weights is not None:
            return lambda backend: FusedDecoder(weights, ops, backend, to_device)
    return lambda backend: TransformersModel(model, backend, to_device)


def _fastest(device: torch.device, dtype: str, activation: Activation) -> tuple[Layout, FusedOps]:
    """Return the operations of a device and the layout of weights that they read fastest."""
    if device.type != "cpu" or trusted_products(dtype, activation) is not None:
        return AsStored(), TorchOps()
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.fused.cpu_ops import CpuOps
    from common.engine.fused.panels import Panels

    return Panels(), CpuOps()
