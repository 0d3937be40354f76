"""Models with state beside attention: which families, and which of their layers hold what."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.engine.weights.kv_shapes import LayerShapes
from pdserve.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Each of them gave the tokens of `transformers` in tests/unit/common/engine/state; others are refused.
_FAMILIES = frozenset(
    {
        "bamba",
        "falcon_h1",
        "granitemoehybrid",
        "lfm2",
        "lfm2_moe",
        "nemotron_h",
        "olmo_hybrid",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_next",
    }
)
_WITH_KV = {"full_attention", "hybrid"}
_WITH_STATE = {"linear_attention", "conv", "hybrid"}
_WITH_NEITHER = {"mlp", "moe"}


@dataclass(frozen=True, slots=True)
class HybridLayers:
    """Numbers of the layers that hold KV (None: all of them), and of those that hold state."""

    kv: tuple[int, ...] | None
    state: tuple[int, ...]

    def with_kv(self, shapes: LayerShapes) -> LayerShapes:
        """Return the shapes of the layers that hold KV, of those of all layers."""
        if self.kv is None or len(self.kv) == len(shapes.own):
            return shapes
        places = {layer: place for place, layer in enumerate(self.kv)}
        nowhere = len(self.kv)
        return LayerShapes(
            tuple(shapes.own[layer] for layer in self.kv),
            tuple(places.get(layer, nowhere) for layer in range(len(shapes.own))),
        )


def is_hybrid(text: "PreTrainedConfig") -> bool:
    """Return True for a family whose layers with state are run."""
    return text.model_type in _FAMILIES


def read_layers(text: "PreTrainedConfig") -> HybridLayers:
    """Return which layers of a model hold what. Raises SetupError for kinds that nothing here runs."""
    if not is_hybrid(text):
        return HybridLayers(None, ())
    kinds = list(text.layer_types)
    for layer, kind in enumerate(kinds):
        if kind not in _WITH_KV | _WITH_STATE | _WITH_NEITHER:
            raise SetupError(f"the model is not supported: its layer {layer} is {kind}")
    kv = tuple(layer for layer, kind in enumerate(kinds) if kind in _WITH_KV)
    if not kv:
        raise SetupError("the model is not supported: none of its layers is attention")
    return HybridLayers(kv, tuple(layer for layer, kind in enumerate(kinds) if kind in _WITH_STATE))
