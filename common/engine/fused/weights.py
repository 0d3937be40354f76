"""Weights of a fused decoder: those of every layer, merged once at load."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from common.engine.fused.held import HeldWeight

Activation = Literal["silu", "gelu_tanh"]
RowsDone = Callable[[torch.Tensor], None]  # is given rows of a weight


@dataclass(frozen=True, slots=True)
class Linear:
    """Product y = x @ weight^T + bias.

    The weight is contiguous: [out, in], as checkpoints store it, or panels [out / n, in / pack, n, pack] of
    `num_outputs` rows. Only CpuOps reads panels (panels.py); those of `gate_up` have an order of their own.
    The bias of panels is float32 and padded as they are. With `scales` the panels hold small integers
    (quantized_panels.py). Rows that one form of panels cannot hold together are several products: the columns
    of `rest` follow those of this one.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    num_outputs: int | None = None
    scales: torch.Tensor | None = None
    rest: tuple["Linear", ...] = ()
    held: HeldWeight | None = None  # before a layout; `weight` has no memory then

    @property
    def out_features(self) -> int:
        """Columns of the result."""
        return sum((layer.own_features for layer in self.rest), self.own_features)

    @property
    def own_features(self) -> int:
        """Columns of the result without those of `rest`."""
        return len(self.weight) if self.num_outputs is None else self.num_outputs

    @property
    def is_panels(self) -> bool:
        """True where the weight lies in panels."""
        return self.num_outputs is not None


def keep_rows(rows: torch.Tensor) -> None:
    """Implement RowsDone for weights that others read too."""


class Layout(Protocol):
    """Layout of the weights of products; asked for each one as soon as it is merged."""

    def linear(self, layer: Linear) -> Linear:
        """Lay out a product for `FusedOps.linear`."""

    def gated(self, layer: Linear) -> Linear:
        """Lay out a product for `FusedOps.gated`: the gate's rows, then those of up."""

    def head(self, layer: Linear, done: RowsDone = keep_rows) -> Linear:
        """Lay out the product that gives the logits, for `FusedOps.linear` and perhaps `FusedOps.embed`.

        `done` may be told of rows of its weight that are laid out, and read no more.
        """


class AsStored:
    """Layout that leaves every weight as it is."""

    def linear(self, layer: Linear) -> Linear:
        """Return `layer` itself."""
        return layer

    gated = linear

    def head(self, layer: Linear, done: RowsDone = keep_rows) -> Linear:
        """Return `layer` itself."""
        return layer


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Weights of one pre-norm decoder layer. Norms are float32 (Gemma's "1 +" already added)."""

    attention_norm: torch.Tensor
    qkv: Linear
    q_norm: torch.Tensor | None  # per head, before rotary (Qwen3, Gemma3)
    k_norm: torch.Tensor | None
    output: Linear
    post_attention_norm: torch.Tensor | None  # of the output of attention (Gemma3)
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    post_mlp_norm: torch.Tensor | None
    window: int | None  # a query sees this many positions, itself included; None: all
    rotary: str | None  # layer type that the model's rotary module wants (Gemma3)


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """Weights of a whole causal LM."""

    dtype: torch.dtype  # the model's, whatever its weights are stored as
    embedding: Linear  # of `vocab` rows; the head itself where they are one
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
