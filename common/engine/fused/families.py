"""Fusion pass: from a `transformers` model to DecoderWeights, for the families that we know.

A model is fused only when it is made of its family's own parts and every one of its parameters was taken.
Anything unexpected leaves it to the general path, which is slower and never wrong: an adapter, a quantized
product, a bias, a new norm in a later `transformers`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from common.engine.fused.emptied import Emptied, Kept, Used
from common.engine.fused.held import HeldEmbedding, HeldLinear, HeldWeight, StackedWeights
from common.engine.fused.plain import is_plain
from common.engine.fused.weights import (
    Activation,
    AsStored,
    DecoderWeights,
    LayerWeights,
    Layout,
    Linear,
)

_FAMILIES = {
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Phi3ForCausalLM",
    "Gemma3ForCausalLM",
}
_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

Look = Callable[[nn.Parameter], torch.Tensor]
Module = Any  # modules of `transformers`, read by attribute name


def activation_of(model: Module) -> Activation | None:
    """Return the gate's activation in a model of a family that we know exactly, or None."""
    if not is_plain(model):
        return None
    return known_activation(type(model).__name__, model.config)


def known_activation(architecture: str, config: Module) -> Activation | None:
    """Return the same by the name of the model's class and its configuration."""
    if architecture not in _FAMILIES:
        return None
    name = getattr(config, "hidden_activation", None) or config.hidden_act
    return _ACTIVATIONS.get(name)


def fuse(
    model: nn.Module, activation: Activation, layout: Layout, *, may_empty: bool = False
) -> DecoderWeights | None:
    """Merge the weights of a model with this `activation_of`; return None where a part is unknown.

    With `may_empty` the model loses each layer's weights once they are laid out, so that no more than a
    layer is held twice. It can run no more then, unless the result is None.
    """
    if may_empty and _Reader(model, AsStored(), activation, look=_shape_of).read() is None:
        return None
    return _Reader(model, layout, activation, used=Emptied() if may_empty else Kept()).read()


class _Reader:
    def __init__(
        self,
        model: Module,
        layout: Layout,
        activation: Activation,
        look: Look = nn.Parameter.detach,
        used: Used | None = None,
    ) -> None:
        self._model = model
        self._activation = activation
        self._layout = layout
        self._config = model.config
        self._is_gemma = type(model).__name__.startswith("Gemma")
        self._taken: set[int] = set()
        self._look = look
        self._used: Used = used or Kept()

    def read(self) -> DecoderWeights | None:
        config, body = self._config, self._model.model
        attention = body.layers[0].self_attn
        if getattr(attention, "attn_logit_softcapping", None):
            return None
        layers = tuple(self._used.parts(self._layer(layer)) for layer in body.layers)
        head = self._layout.head(self._stored(self._model.lm_head), self._used.rows)
        table = body.embed_tokens
        dtype = table.dtype if isinstance(table, HeldEmbedding) else table.weight.dtype
        weights = DecoderWeights(
            dtype=dtype,
            embedding=self._embedding(table, head),
            embedding_scale=self._embedding_scale(table, dtype),
            layers=layers,
            final_norm=self._norm(body.norm),
            head=head,
            rotary=body.rotary_emb,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=attention.head_dim,
            scale=attention.scaling,
            norm_eps=config.rms_norm_eps,
            activation=self._activation,
            logit_softcap=getattr(config, "final_logit_softcapping", None),
        )
        self._used.parts(weights)
        is_complete = all(id(parameter) in self._taken for parameter in self._model.parameters())
        return weights if is_complete and _is_uniform(layers) else None

    def _layer(self, layer: Module) -> LayerWeights:
        attention, mlp = layer.self_attn, layer.mlp
        has_head_norms = hasattr(attention, "q_norm")
        return LayerWeights(
            attention_norm=self._norm(layer.input_layernorm),
            qkv=self._layout.linear(
                self._merge(attention, ("q_proj", "k_proj", "v_proj"), "qkv_proj")
            ),
            q_norm=self._norm(attention.q_norm) if has_head_norms else None,
            k_norm=self._norm(attention.k_norm) if has_head_norms else None,
            output=self._linear(attention.o_proj),
            post_attention_norm=self._norm(layer.post_attention_layernorm)
            if self._is_gemma
            else None,
            mlp_norm=self._norm(
                layer.pre_feedforward_layernorm
                if self._is_gemma
                else layer.post_attention_layernorm
            ),
            gate_up=self._layout.gated(self._merge(mlp, ("gate_proj", "up_proj"), "gate_up_proj")),
            down=self._linear(mlp.down_proj),
            post_mlp_norm=self._norm(layer.post_feedforward_layernorm) if self._is_gemma else None,
            window=self._window(attention),
            rotary=attention.layer_type if self._is_gemma else None,
        )

    def _window(self, attention: Module) -> int | None:
        """Return a layer's window: Qwen and Gemma keep it per layer, Mistral and Phi in the configuration."""
        window: int | None = (
            attention.sliding_window
            if hasattr(attention, "sliding_window")
            else getattr(self._config, "sliding_window", None)
            if type(self._model).__name__ in ("MistralForCausalLM", "Phi3ForCausalLM")
            else None
        )
        return window

    def _merge(self, owner: Module, names: tuple[str, ...], merged: str) -> Linear:
        """Merge several products that read the same input; Phi3 stores them merged already."""
        if hasattr(owner, merged):
            return self._stored(getattr(owner, merged))
        parts: list[Module] = [getattr(owner, name) for name in names]
        if any(isinstance(part, HeldLinear) for part in parts):
            return _side_by_side([self._stored(part) for part in parts])
        weight = torch.cat([self._take(part.weight) for part in parts])
        biases = [self._take(part.bias) for part in parts if part.bias is not None]
        return Linear(weight, torch.cat(biases) if biases else None)

    def _linear(self, module: Module) -> Linear:
        return self._layout.linear(self._stored(module))

    def _stored(self, module: Module) -> Linear:
        bias = None if module.bias is None else self._take(module.bias)
        if isinstance(module, HeldLinear):
            return self._held(module.held, bias)
        return Linear(self._take(module.weight), bias)

    def _held(self, held: HeldWeight, bias: torch.Tensor | None = None) -> Linear:
        for parameter in held.parameters():
            self._take(parameter)
        shape = torch.empty(held.num_rows, held.num_columns, device="meta")
        return Linear(shape, bias, held=held)

    def _embedding(self, module: Module, head: Linear) -> Linear:
        """Return the head where the two are one, else the rows as they are stored."""
        is_tied = _numbers_of(self._model.lm_head) is _numbers_of(module)
        if isinstance(module, HeldEmbedding):
            return head if is_tied else self._layout.head(self._held(module.held))
        embedding = self._take(module.weight)
        return head if is_tied else Linear(embedding, None)

    def _norm(self, module: Module) -> torch.Tensor:
        weight = self._take(module.weight).float()
        return weight + 1 if self._is_gemma else weight

    def _embedding_scale(self, module: Module, dtype: torch.dtype) -> torch.Tensor | None:
        scale = getattr(module, "embed_scale", None)
        return None if scale is None else scale.to(dtype)

    def _take(self, parameter: nn.Parameter) -> torch.Tensor:
        self._taken.add(id(parameter))
        self._used.take(parameter)
        return self._look(parameter)


def _numbers_of(module: Module) -> object:
    """Return the parameter or held weight of a product or an embedding."""
    return module.held if isinstance(module, HeldLinear | HeldEmbedding) else module.weight


def _shape_of(parameter: nn.Parameter) -> torch.Tensor:
    """Return a tensor of the same rows and dtype; a matrix has no columns, and so takes no memory.

    Tensors on "meta" would do, but the first product of some has torch import its compiler, for two seconds.
    """
    whole = parameter.detach()
    return whole[:, :0] if whole.dim() > 1 else whole


def _side_by_side(parts: list[Linear]) -> Linear:
    """Merge held products: those of one form into one weight, the others behind it."""
    runs: list[list[Linear]] = []
    for part in parts:
        kind = _kind(part)
        if runs and _kind(runs[-1][0]) == kind:
            runs[-1].append(part)
        else:
            runs.append([part])
    first, *rest = (_stacked(run) for run in runs)
    return replace(first, rest=tuple(rest))


def _kind(part: Linear) -> tuple[object, ...]:
    if part.held is None:
        raise TypeError("the loader holds all parts of a weight, or none")
    return part.held.form, part.held.group, part.bias is None


def _stacked(run: list[Linear]) -> Linear:
    if len(run) == 1:
        return run[0]
    biases = [part.bias for part in run if part.bias is not None]
    weight = torch.cat([part.weight for part in run])
    held = StackedWeights([part.held for part in run if part.held is not None])
    return Linear(weight, torch.cat(biases) if biases else None, held=held)


def _is_uniform(layers: tuple[LayerWeights, ...]) -> bool:
    """Return True if one workspace serves every layer."""
    return len(set(_widths(layers))) == 1


def _widths(layers: tuple[LayerWeights, ...]) -> Iterator[tuple[int, int]]:
    return ((layer.qkv.out_features, layer.gate_up.out_features) for layer in layers)
