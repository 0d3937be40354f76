"""Choice of the forward pass: fused for families we know, `transformers`' own modules for the rest."""

from collections.abc import Callable
from pathlib import Path

import torch

from common.config import EngineConfig
from common.engine.attention.backend import AttentionBackend
from common.engine.device_inputs import DeviceInputs, ToDevice, on_host
from common.engine.fused.decoder import FusedDecoder
from common.engine.fused.dequantized import Dequantized
from common.engine.fused.families import activation_of, fuse
from common.engine.fused.held import held_forms
from common.engine.fused.ops import FusedOps, TorchOps
from common.engine.fused.quantize import Format, PanelForm
from common.engine.fused.rounded import Rounded
from common.engine.fused.weights import Activation, AsStored, DecoderWeights, Layout
from common.engine.kernel_checks.verdicts import trusted_products
from common.engine.model_runner import TokenModel
from common.engine.transformers_model import TransformersModel
from common.engine.weights.gguf_index import is_kept
from pdserve.errors import SetupError


def select_model(
    model: torch.nn.Module, config: EngineConfig, device: torch.device, *, may_empty: bool = False
) -> Callable[[AttentionBackend], TokenModel]:
    """Lay a model's weights out for the fastest forward pass; what is returned makes it for a backend.

    All passes that are made share the weights. `may_empty` lets the model itself lose them. Raises SetupError
    where quantized weights have no pass.
    """
    to_device: ToDevice = on_host if device.type == "cpu" else DeviceInputs(device).put
    activation = activation_of(model) if config.fusion == "auto" else None
    if activation is not None:
        layout, ops = _fastest(model, config, device, activation)
        weights = fuse(model, activation, layout, may_empty=may_empty)
        if weights is not None:
            return lambda backend: _decoder(weights, ops, backend, to_device)
    check_quantization(model, config, device, is_fused=False)
    return lambda backend: TransformersModel(model, backend, to_device)


def quantized_format(config: EngineConfig) -> Format | None:
    """Return the format that weights are rounded to; None: they stay as they are."""
    kind = config.quantization
    return None if kind == "auto" or kind == "none" else kind


def check_quantization(
    model: torch.nn.Module,
    config: EngineConfig,
    device: torch.device,
    *,
    is_fused: bool = True,
) -> None:
    """Raise SetupError where weights are quantized that only the fused pass on a CPU could read."""
    check_device(config, device)
    is_quantized = quantized_format(config) is not None or bool(held_forms(model))
    if is_quantized and not (is_fused and activation_of(model) is not None):
        raise _refusal(config, f"needs the fused pass, and {type(model).__name__} has none")


def check_device(config: EngineConfig, device: torch.device) -> None:
    """Raise SetupError where weights are to be quantized for a device other than a CPU."""
    if quantized_format(config) is not None and device.type != "cpu":
        raise _refusal(config, "works on a CPU alone")


def check_kept(model_dir: Path, config: EngineConfig, device: torch.device) -> None:
    """Raise SetupError where a GGUF file was kept as it is for a worker that wants other weights."""
    if not is_kept(model_dir):
        return
    for key, is_right in (
        ("quantization", config.quantization == "auto"),
        ("fusion", config.fusion == "auto"),
        ("device", device.type == "cpu"),
    ):
        if not is_right:
            value = device.type if key == "device" else getattr(config, key)
            raise SetupError(
                f"{model_dir} keeps the quantized weights of a GGUF file, and engine.{key} is {value}",
                "start with the GGUF file itself, and engine.quantization none",
            )


def _decoder(
    weights: DecoderWeights, ops: FusedOps, backend: AttentionBackend, to_device: ToDevice
) -> TokenModel:
    """Make the pass; where all of it is kernels of a CPU, their calls are kept."""
    if isinstance(ops, TorchOps):  # else numba would be imported on CUDA too
        return FusedDecoder(weights, ops, backend, to_device)
    from common.engine.attention.cpu import CpuBackend
    from common.engine.fused.cpu_ops import CpuOps
    from common.engine.fused.replayed import ReplayedDecoder

    if not isinstance(ops, CpuOps) or not isinstance(backend, CpuBackend):
        return FusedDecoder(weights, ops, backend, to_device)
    return ReplayedDecoder(weights, ops, backend)


def _refusal(config: EngineConfig, reason: str) -> SetupError:
    return SetupError(f"engine.quantization {config.quantization} {reason}", "set it to none")


def _fastest(
    model: torch.nn.Module, config: EngineConfig, device: torch.device, activation: Activation
) -> tuple[Layout, FusedOps]:
    """Return the operations of a device and the layout of weights that they read fastest."""
    form, held, dtype = quantized_format(config), held_forms(model), _dtype_of(model)
    name = str(dtype).removeprefix("torch.")
    is_trusted = device.type == "cpu" and (
        all(_is_trusted(name, activation, each, held[each]) for each in held)
        if held
        else _is_trusted(name, activation, form or "none")
    )
    if not is_trusted:
        plain = AsStored() if form is None else Rounded(form)
        return Dequantized(dtype) if held else plain, TorchOps()
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.fused.cpu_ops import CpuOps
    from common.engine.fused.panels import Panels

    if held:
        from common.engine.fused.held_panels import HeldPanels

        return HeldPanels(), CpuOps(is_quantized=True)
    if form is None:
        return Panels(), CpuOps()
    from common.engine.fused.quantized_panels import QuantizedPanels

    return QuantizedPanels(form), CpuOps(is_quantized=True)


def _is_trusted(
    dtype: str, activation: Activation, kind: str | PanelForm, has_gates: bool = True
) -> bool:
    return trusted_products(dtype, activation if has_gates else None, kind) is None


def _dtype_of(model: torch.nn.Module) -> torch.dtype:
    """Return the dtype of the weights that are not held as integers."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
