"""Llama in torch's own modules, computed as by `transformers`, whose import takes two seconds of a core.

It is what the fused pass is made of, and what the self-check compares that with. Modules have the names of
`transformers`, so that one reader serves both. It is never run for a request.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from common.engine.weights.plain_config import PlainConfig

Take = Callable[[str], torch.Tensor]  # a checkpoint's tensor by its name, in the model's dtype
Tables = tuple[torch.Tensor, torch.Tensor]


class LayerKV(NamedTuple):
    """Keys and values of a layer, [1, kv_heads, T, head_dim] each."""

    keys: torch.Tensor
    values: torch.Tensor


class Cache(NamedTuple):
    """Keys and values of all layers."""

    layers: list[LayerKV]


class Output(NamedTuple):
    """Logits [1, T, vocab], and what was attended over."""

    logits: torch.Tensor
    past_key_values: Cache


class Norm(nn.Module):  # type: ignore[misc]  # torch has no types here
    """Root mean square norm (Zhang and Sennrich 2019)."""

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = _parameter(weight)
        self._epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        variance = wide.pow(2).mean(-1, keepdim=True)
        return self.weight * (wide * torch.rsqrt(variance + self._epsilon)).to(x.dtype)


class Rotary(nn.Module):  # type: ignore[misc]
    """Rotary angles (Su et al. 2021)."""

    rope_type = "default"  # as the modules of `transformers` say

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        dim = config.head_dim
        angles = 1.0 / (config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float) / dim))
        self.register_buffer("inv_freq", angles, persistent=False)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Tables:
        """Return cosines and sines [1, T, head_dim] of positions [1, T], in the dtype of `x`."""
        half = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat((half, half), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Attention(nn.Module):  # type: ignore[misc]
    """Causal attention of grouped queries."""

    def __init__(self, config: PlainConfig, take: Take, prefix: str) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self._group = config.num_attention_heads // config.num_key_value_heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, _linear(take(f"{prefix}{name}.weight")))

    def forward(self, x: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, LayerKV]:
        query, key, value = (
            self._heads(part(x)) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _rotated(query, *tables), _rotated(key, *tables)
        keys, values = (part.repeat_interleave(self._group, dim=1) for part in (key, value))
        scores = torch.matmul(query, keys.transpose(2, 3)) * self.scaling
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)
        weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        attended = torch.matmul(weights, values).transpose(1, 2).flatten(2)
        return self.o_proj(attended), LayerKV(key, value)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """Return [1, heads, T, head_dim] of [1, T, heads * head_dim]."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Mlp(nn.Module):  # type: ignore[misc]
    """Gated products."""

    def __init__(self, take: Take, prefix: str) -> None:
        super().__init__()
        for name in ("gate_proj", "up_proj", "down_proj"):
            self.add_module(name, _linear(take(f"{prefix}{name}.weight")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gated: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return gated


class Layer(nn.Module):  # type: ignore[misc]
    """Attention and MLP, each behind a norm."""

    def __init__(self, config: PlainConfig, take: Take, prefix: str) -> None:
        super().__init__()
        for name in ("input_layernorm", "post_attention_layernorm"):
            norm = Norm(take(f"{prefix}{name}.weight"), config.rms_norm_eps)
            self.add_module(name, norm)
        self.self_attn = Attention(config, take, f"{prefix}self_attn.")
        self.mlp = Mlp(take, f"{prefix}mlp.")

    def forward(self, x: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, LayerKV]:
        attended, kv = self.self_attn(self.input_layernorm(x), tables)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), kv


class Body(nn.Module):  # type: ignore[misc]
    """All but the head."""

    def __init__(self, config: PlainConfig, take: Take) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding.from_pretrained(take("model.embed_tokens.weight"))
        numbers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList([Layer(config, take, f"model.layers.{n}.") for n in numbers])
        self.norm = Norm(take("model.norm.weight"), config.rms_norm_eps)
        self.rotary_emb = Rotary(config)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        x = self.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1], device=x.device)[None]
        tables, kept = self.rotary_emb(x, positions), []
        for layer in self.layers:
            x, kv = layer(x, tables)
            kept.append(kv)
        return self.norm(x), Cache(kept)


class LlamaForCausalLM(nn.Module):  # type: ignore[misc]
    """Llama with its head, which may be its embedding."""

    def __init__(self, config: PlainConfig, take: Take) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config, take)
        if config.tie_word_embeddings:
            self.lm_head = _linear(self.model.embed_tokens.weight)
            self.lm_head.weight = self.model.embed_tokens.weight
        else:
            self.lm_head = _linear(take("lm_head.weight"))

    def forward(self, input_ids: torch.Tensor, **_options: object) -> Output:
        """Compute token ids [1, T] from their first position on; keys and values are kept always."""
        x, cache = self.model(input_ids)
        return Output(self.lm_head(x), cache)

    def set_attn_implementation(self, _name: str) -> None:
        """Change nothing: it attends in one way."""

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding, as `transformers`' models do."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """Return the head, as `transformers`' models do."""
        return self.lm_head


def shapes_of(config: PlainConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a checkpoint, by its name."""
    width, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (kv, width),
        "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    numbers = range(config.num_hidden_layers)
    shapes = {f"model.layers.{n}.{name}.weight": layer[name] for n in numbers for name in layer}
    shapes |= {
        "model.embed_tokens.weight": (config.vocab_size, width),
        "model.norm.weight": (width,),
    }
    return (
        shapes
        if config.tie_word_embeddings
        else shapes | {"lm_head.weight": (config.vocab_size, width)}
    )


def _linear(weight: torch.Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = _parameter(weight)
    return layer


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate [1, heads, T, head_dim] by tables [1, T, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cosines[:, None] + turned * sines[:, None]
