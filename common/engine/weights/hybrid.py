"""Models with state beside attention: which families, and which of their layers hold what."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.engine.attention.indexed import INDEXED
from common.engine.weights.kv_shapes import LayerShapes, read_shapes
from common.kv_transfer.layout import KVShape
from pdserve.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Each of both kinds gave the tokens of `transformers` in tests/unit/common/engine/state or in the survey
# (docs/use/model-table.md); others are refused.
_FAMILIES = frozenset(
    {
        "bailing_hybrid",
        "bamba",
        "falcon_h1",
        "glm5_next_text",
        "granitemoehybrid",
        "jamba",
        "kimi_linear",
        "lfm2",
        "lfm2_moe",
        "lfm3",
        "minimax",
        "nemotron_h",
        "olmo_hybrid",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_next",
        "recurrent_gemma",
        "zamba",
        "zamba2",
        "zaya",
    }
)
_WITHOUT_ATTENTION = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})
# families whose states, and windows beside them, hold for any context
_UNLIMITED = _WITHOUT_ATTENTION | {"recurrent_gemma"}
# families whose modules mix dtypes in chunks of 64 tokens, where their weights are not in float32
_FLOAT32_ALONE = {"xlstm"}
_WITH_KV = {"full_attention", "sliding_attention", INDEXED, "hybrid", "hybrid_sliding"}
_WITH_STATE = {"linear_attention", "conv", "hybrid", "hybrid_sliding"}
_WITH_NEITHER = {"mlp", "moe"}
# A model without attention counts the positions of its sequences in blocks all the same. Nothing reads them.
_UNREAD = KVShape(1, 2, 2)


@dataclass(frozen=True, slots=True)
class HybridLayers:
    """Numbers of the layers that hold KV (None: all of them), and of those that hold state."""

    kv: tuple[int, ...] | None
    state: tuple[int, ...]

    def shapes(self, text: "PreTrainedConfig") -> LayerShapes:
        """Return the shapes of the layers that hold KV. Raises SetupError."""
        if self.kv == ():
            return LayerShapes((_UNREAD,), (1,) * text.num_hidden_layers)
        shapes = read_shapes(text)
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
    return text.model_type in _FAMILIES or has_no_attention(text)


def has_no_attention(text: "PreTrainedConfig") -> bool:
    """Return True for a family none of whose models attends: its configurations know no heads."""
    return text.model_type in _WITHOUT_ATTENTION


def needs_no_limit(text: "PreTrainedConfig") -> bool:
    """Return True for a family whose configurations may name no longest context."""
    return text.model_type in _UNLIMITED


def refuse_dtype(text: "PreTrainedConfig", dtype: str) -> None:
    """Raise SetupError for a dtype in which a family's modules fail."""
    if dtype != "float32" and text.model_type in _FLOAT32_ALONE:
        raise SetupError(
            f"the model is not supported: {text.model_type} runs in float32 alone, not in {dtype}",
            "set engine.dtype to float32",
        )


def read_layers(text: "PreTrainedConfig") -> HybridLayers:
    """Return which layers of a model hold what. Raises SetupError for kinds that nothing here runs."""
    if not is_hybrid(text):
        return HybridLayers(None, ())
    # those of RWKV and xLSTM do not say
    kinds = getattr(text, "layer_types", None) or ["linear_attention"] * text.num_hidden_layers
    for layer, kind in enumerate(kinds):
        if kind not in _WITH_KV | _WITH_STATE | _WITH_NEITHER:
            raise SetupError(f"the model is not supported: its layer {layer} is {kind}")
    kv = tuple(layer for layer, kind in enumerate(kinds) if kind in _WITH_KV)
    return HybridLayers(kv, tuple(layer for layer, kind in enumerate(kinds) if kind in _WITH_STATE))
