"""Checkpoints of AMD's Quark: FP8 with its scale beside it, and MXFP4.

Of MXFP4 `weight` holds uint8, and `weight_scale` exponents (float4.py).
"""

from collections.abc import Iterator

from common.engine.weights.prequantized.float4 import mxfp4
from common.engine.weights.prequantized.mixed_floats import MixedFloats
from common.engine.weights.prequantized.settings import Settings

_KINDS = {"fp8_e4m3": "FP8", "fp8_e5m2": "FP8", "fp4": "MXFP4"}
_ALGORITHMS, _ROTATION = "algo_config", "rot"  # rotation, QuaRot
_GLOBAL, _LAYERS = "global_quant_config", "layer_quant_config"


def quark(settings: Settings) -> MixedFloats:
    """Read the settings. Raises SetupError for a kind that is not known."""
    for algorithm in _algorithms(settings):
        if _ROTATION in algorithm:
            raise settings.refusal(f"{_ALGORITHMS} names {algorithm}, which turns activations")
    kinds = sorted({_KINDS[kind] for kind in _kinds(settings)})
    if not kinds:
        raise settings.refusal(f"{_GLOBAL} names no weights")
    return MixedFloats(f"Quark {' and '.join(kinds)}", mxfp4, (".weight_zero_point",))


def _algorithms(settings: Settings) -> Iterator[str]:
    named = settings.fields.get(_ALGORITHMS)
    for algorithm in named if isinstance(named, list) else [named]:
        if isinstance(algorithm, dict):
            yield str(algorithm.get("name")).lower()


def _kinds(settings: Settings) -> Iterator[str]:
    """Yield the dtypes of weights. Raises SetupError for one that is not known."""
    layers = settings.fields.get(_LAYERS)
    named = {_GLOBAL: settings.fields.get(_GLOBAL)}
    if isinstance(layers, dict):
        named |= {f"{_LAYERS} of {layer}": config for layer, config in layers.items()}
    for name, config in named.items():
        weight = config.get("weight") if isinstance(config, dict) else None
        if not weight:
            continue  # these stay as they are
        kind = weight.get("dtype") if isinstance(weight, dict) else "several kinds"
        if kind not in _KINDS:
            raise settings.refusal(f"{name} has weights of {kind}")
        yield kind
