"""What a fused decoder computes with: the weights of every layer, merged once at load."""

from dataclasses import dataclass
from typing import Literal

import torch

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x @ weight^T + bias; weight [out, in], contiguous, as checkpoints store it."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def out_features(self) -> int:
        """Columns of the result."""
        return len(self.weight)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One pre-norm decoder layer. Norm weights are float32 (Gemma's "1 +" already added)."""

    attention_norm: torch.Tensor
    qkv: Linear
    q_norm: torch.Tensor | None  # per head, before rotary (Qwen3, Gemma3)
    k_norm: torch.Tensor | None
    output: Linear
    post_attention_norm: torch.Tensor | None  # of what attention adds (Gemma3)
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    post_mlp_norm: torch.Tensor | None
    window: int | None  # a query sees this many positions, itself included; None: all
    rotary: str | None  # layer type that the model's rotary module wants (Gemma3)


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A whole causal LM."""

    embedding: torch.Tensor  # [vocab, hidden]
    embedding_scale: torch.Tensor | None
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor
    head: Linear
    rotary: torch.nn.Module
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float  # of attention scores
    norm_eps: float
    activation: Activation
    logit_softcap: float | None
