"""Paged attention for modules that write attention out by hand, and take no other: GPT-J, Falcon, GIT.

Such a module gives its keys and values to a cache. It multiplies its queries by the keys that come back,
scales, takes a softmax, and multiplies by the values that come back. So our cache gives back identity
matrices: what reaches the softmax are then the scaled queries themselves. There paged attention takes its
place. Its result times identity is the result. Both products are exact, in every dtype.

The matrix in the place of keys is a tensor that knows its layer, and so is all that is computed from it. It
allows what keeps a scaled query, and refuses all else (biases, soft caps), so that nothing is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import AttentionForm, UnsupportedAttentionError
from common.engine.attention.key_biases import KeyBiases, biases_of
from common.engine.attention.places import place_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# families whose layers see later positions too, unless the configuration says that they decode
_BERT_KINDS = {"big_bird", "megatron-bert", "rembert", "roformer"}
BY_CACHE_FAMILIES = _BERT_KINDS | {
    "codegen",
    "falcon",
    "git",
    "gpt_neo",
    "gpt_neox_japanese",
    "gptj",
    "mvp",
    "trocr",
    "xglm",
    # these take another attention, but their layers do not pass our keyword on
    "nemotron",
    "stablelm",
}
# families that mask scores by a buffer of their own, which a form then says
_MASKED_BY_BUFFER = {"gpt_neo"}
# families that repeat their KV heads for every query head before they cache them
_REPEATED = {"falcon"}
_NO_SHAPE = "dtype device requires_grad get size dim numel is_floating_point"
_SAME_NUMBERS = (
    "transpose permute view reshape contiguous flatten unflatten unsqueeze squeeze expand"
)
_CASTS = "to type type_as float half bfloat16"
_PRODUCTS = "matmul bmm baddbmm einsum"
_SCALING = {"mul", "imul", "rmul", "div", "idiv", "div_", "true_divide"}
_ALLOWED = {*f"{_NO_SHAPE} {_SAME_NUMBERS} {_CASTS} {_PRODUCTS}".split()} | _SCALING


@dataclass(frozen=True, slots=True, eq=False)
class HandedOver:
    """Keys and values [1, kv_heads, T, channels] that a layer gave to its cache in a step."""

    layer: int
    key: torch.Tensor
    value: torch.Tensor
    backend: AttentionBackend
    form: AttentionForm
    has_own_mask: bool
    biases: KeyBiases | None  # which the keys have already

    def attend(self, query: torch.Tensor) -> torch.Tensor:
        """Attend for scaled queries [..., T, key channels]; return [..., T, value channels].

        Raises UnsupportedAttentionError for what are no queries of this layer.
        """
        key, value = (x[0].transpose(0, 1) for x in (self.key, self.value))
        query = query if self.biases is None else self.biases.asked_by(query)
        num_tokens, _, channels = key.shape
        if query.shape[-2:] != (num_tokens, channels):
            raise self.refused(f"takes a softmax over {list(query.shape)}")
        place = place_of("its attention", self.layer, self.key, self.value, self.backend)
        heads = query.reshape(-1, num_tokens, channels).transpose(0, 1)
        out = self.backend.attend(
            place, heads.to(value.dtype), key.to(value.dtype), value, self.form
        )
        return out.transpose(0, 1).reshape(*query.shape[:-1], value.shape[2])

    def refused(self, reason: str) -> UnsupportedAttentionError:
        """Return the error for a layer that does something else than attention by its form."""
        return UnsupportedAttentionError(f"the attention of layer {self.layer} {reason}")


class Scores(torch.Tensor):  # type: ignore[misc]
    """Identity in the place of a layer's keys, and what the layer computes from it before its softmax."""

    handed: HandedOver

    def __add__(self, other: Any) -> Any:
        """Return the scores themselves where there is no mask to add; some modules add None."""
        return self if other is None else super().__add__(other)

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run what keeps a scaled query; attend in place of the softmax. Raises UnsupportedAttentionError."""
        kwargs = kwargs or {}
        found = [x for x in (*args, *kwargs.values()) if isinstance(x, cls)]
        handed, name = found[0].handed, func.__name__.strip("_")
        if name == "softmax":
            dim = kwargs["dim"] if "dim" in kwargs else args[1]
            return _attend(found[0], dim)
        if name == "where" and handed.has_own_mask:
            return found[0]
        if name == "add" and handed.biases is not None:
            return found[0]
        is_scaled = name not in _SCALING or all(x is found[0] or _is_number(x) for x in args)
        if name not in _ALLOWED or not is_scaled:
            raise handed.refused(f"changes its scores by {name}")
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, cls):
            result.handed = handed
        return result


class HandingCache:
    """Cache that keeps nothing: it hands a step's keys and values to a backend. One serves all steps.

    It has what models ask of a `transformers.Cache`, whose import takes seconds.
    """

    positions: torch.Tensor  # [T] int64 of the step that runs; the model's caller sets them

    def __init__(
        self,
        config: "PreTrainedConfig",
        backend: AttentionBackend,
        biases: KeyBiases | None = None,
    ) -> None:
        self._config, self._backend, self._biases = config, backend, biases
        self._identities: dict[object, torch.Tensor] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions are told, and no mask is made."""
        return 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return identities [1, heads, channels, channels] in the place of all keys and values so far."""
        if self._config.model_type in _BERT_KINDS and not self._config.is_decoder:
            raise UnsupportedAttentionError("is_decoder is false, so it sees later positions")
        once = self._once(key_states.shape[1])
        stored = key_states[:, once]
        keys = self._identity(key_states).as_subclass(Scores)
        keys.handed = HandedOver(
            layer_idx,
            stored if self._biases is None else self._biases.behind(stored, self.positions),
            value_states[:, once],
            self._backend,
            AttentionForm(1.0, _own_window(self._config, layer_idx)),
            self._config.model_type in _MASKED_BY_BUFFER,
            self._biases,
        )
        return keys, self._identity(value_states)

    def _once(self, num_heads: int) -> slice:
        """Return one of each run of equal heads."""
        own = self._backend.kv_shapes[0].num_kv_heads
        is_repeated = self._config.model_type in _REPEATED and num_heads % own == 0
        return slice(None, None, num_heads // own if is_repeated else 1)

    def _identity(self, like: torch.Tensor) -> torch.Tensor:
        _, heads, _, channels = like.shape
        known = heads, channels, like.dtype, like.device
        if known not in self._identities:
            one = torch.eye(channels, dtype=like.dtype, device=like.device)
            self._identities[known] = one.repeat(1, heads, 1, 1)
        return self._identities[known]


def cache_for(model: Any, backend: AttentionBackend) -> HandingCache | None:
    """Return the cache to call a model with; None where its modules take our attention."""
    config = getattr(model, "config", None)
    is_by_cache = getattr(config, "model_type", None) in BY_CACHE_FAMILIES
    return HandingCache(config, backend, biases_of(model)) if is_by_cache else None


def handed_over(key: torch.Tensor) -> HandedOver | None:
    """Return what stands behind keys that a module got from our cache; None for keys of its own."""
    return key.handed if isinstance(key, Scores) else None


def _attend(scores: Scores, dim: int) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        if dim not in (-1, scores.dim() - 1):
            raise scores.handed.refused(f"takes a softmax over dimension {dim}")
        return scores.handed.attend(scores.as_subclass(torch.Tensor))


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) or (isinstance(x, torch.Tensor) and x.dim() == 0)


def _own_window(config: "PreTrainedConfig", layer: int) -> int | None:
    """Return the window of a layer's own mask (GPT-Neo's local layers)."""
    kinds = getattr(config, "attention_layers", None)
    if not kinds or kinds[layer] != "local":
        return None
    window: int = config.window_size
    return window
