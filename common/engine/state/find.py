"""Search for a model's modules with state that ask `transformers`' own cache for it."""

import inspect
from typing import Any

import torch

from common.engine.state.copied import Function, names_in
from common.engine.state.layer_state import LayerState
from common.engine.state.limited_step import has_limits, with_limits
from common.engine.state.mixer import Mixer, Rows, alone, with_nothing
from common.engine.state.scan import ContinuedScan, has_scan
from pdserve.errors import SetupError

_CACHE_NAMES = ("cache_params", "past_key_values")
_LINEAR = "get_linear_cache"  # MiniMax, whose modules return what they leave in the cache too
_QUESTIONS = {"get_conv_state", "get_recurrent_state", _LINEAR}


def find_mixers(model: torch.nn.Module, layers: frozenset[int]) -> list[Mixer]:
    """Return the mixer of each of `layers`: its module that asks a cache for a state. Raises SetupError."""
    found: dict[int, Mixer] = {}
    for module in model.modules():
        layer: Any = getattr(module, "layer_idx", None)
        asked = _QUESTIONS.intersection(names_in(module))
        if layer not in layers or not asked:
            continue
        names = inspect.signature(module.forward).parameters
        cache = next((name for name in _CACHE_NAMES if name in names), None)
        if layer in found or cache is None:
            raise _unknown(layer)
        found[layer] = _mixer(module, layer, cache, keeps_first=_LINEAR in asked)
    if missing := layers - found.keys():
        raise _unknown(min(missing))
    return list(found.values())


def _mixer(module: torch.nn.Module, layer: int, cache: str, *, keeps_first: bool) -> Mixer:
    """Return the mixer of a module that takes `cache`; `keeps_first`: one of its outputs has rows."""
    own = _forward(module, layer)
    _, *others = inspect.signature(module.forward).parameters.values()
    # what a state needs not, such as rotary tables
    nothing = {
        each.name: None
        for each in others
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    }

    def run(hidden: torch.Tensor, state: LayerState) -> Rows:
        output = own(hidden, **nothing | {cache: state})
        if not isinstance(output, tuple):
            return (output,)
        return output[:1] if keeps_first else output

    def give(rows: Rows) -> object:
        return alone(rows) if len(rows) == 1 else rows

    return Mixer(layer, module, run, with_nothing if keeps_first else give)


def _forward(module: torch.nn.Module, layer: int) -> Function:
    if has_scan(module):
        return ContinuedScan(module, layer)
    return with_limits(module) if has_limits(module) else module.forward


def _unknown(layer: int) -> SetupError:
    return SetupError(
        f"the model is not supported: it is unknown which module keeps the state of its layer {layer}"
    )
