"""Families whose modules keep their state in a way of their own; all others ask `transformers`' cache."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from common.engine.state import griffin, rwkv, xlstm
from common.engine.state.find import find_mixers
from common.engine.state.mixer import Mixer
from common.engine.state.own import OwnState, cached_states


@dataclass(frozen=True, slots=True)
class StateFamily:
    """Way of a family's models: their mixers of some layers, and the states behind a whole forward pass."""

    mixers: Callable[[Any, frozenset[int]], list[Mixer]]
    own_states: Callable[[Any, Any], Iterable[OwnState]]


_USUAL = StateFamily(find_mixers, cached_states)
_FAMILIES = {
    "recurrent_gemma": StateFamily(griffin.mixers, griffin.own_states),
    "rwkv": StateFamily(rwkv.mixers, rwkv.own_states),
    "xlstm": StateFamily(xlstm.mixers, xlstm.own_states),
}


def family_of(model: torch.nn.Module) -> StateFamily:
    """Return the way of a loaded model's family."""
    config: Any = model.config
    return _FAMILIES.get(config.get_text_config().model_type, _USUAL)
