"""Operations of a fused layer: the seam, and its plain torch form."""

from typing import Protocol

import torch
from torch.nn import functional

from common.engine.fused.weights import Activation, Linear


class FusedOps(Protocol):
    """Operations of one device. Every method writes into its last argument, or in place; rows are tokens."""

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which products with weights of `dtype` want their rows; others cost a copy."""

    def embed(self, ids: torch.Tensor, embedding: Linear, out: torch.Tensor) -> None:
        """out [T, n] float32 = the rows `ids` [T] of DecoderWeights.embedding."""

    def scale(self, x: torch.Tensor, factor: torch.Tensor) -> None:
        """x [T, n] *= the factor, a scalar."""

    def linear(self, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
        """out [T, out] = the layer's product with x [T, in]; out may be float32 where x is not."""

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
        """Compute the RMS norm of x [T, n]; x and out may be one tensor."""

    def add_norm(
        self,
        residual: torch.Tensor,
        delta: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        out: torch.Tensor,
    ) -> None:
        """residual += delta, then out = norm(residual); all [T, n], the residual float32."""

    def norm_heads(
        self, x: torch.Tensor, first: int, end: int, weight: torch.Tensor, eps: float
    ) -> None:
        """Compute the RMS norm of each head in [first, end) of x [T, heads, dim], in place."""

    def rotate(self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Rotate the first `heads` heads of x [T, heads, dim] in place; cos, sin [T, rotary dim]."""

    def gated(
        self,
        x: torch.Tensor,
        gate_up: Linear,
        activation: Activation,
        products: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """out [T, n] = activation(gate) * up, from x times `gate_up`; `products` [T, 2n] is scratch."""


class TorchOps:
    """FusedOps in torch operations, for any device."""

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Implement FusedOps.input_dtype."""
        return dtype

    def embed(self, ids: torch.Tensor, embedding: Linear, out: torch.Tensor) -> None:
        """Implement FusedOps.embed."""
        out.copy_(embedding.weight[ids])

    def scale(self, x: torch.Tensor, factor: torch.Tensor) -> None:
        """Implement FusedOps.scale."""
        x.mul_(factor)

    def linear(self, x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
        """Implement FusedOps.linear."""
        matmul(x, layer, out)

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
        """Implement FusedOps.norm."""
        wide = x.float()
        out.copy_(wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight)

    def add_norm(
        self,
        residual: torch.Tensor,
        delta: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        out: torch.Tensor,
    ) -> None:
        """Implement FusedOps.add_norm."""
        residual.add_(delta)
        self.norm(residual, weight, eps, out)

    def norm_heads(
        self, x: torch.Tensor, first: int, end: int, weight: torch.Tensor, eps: float
    ) -> None:
        """Implement FusedOps.norm_heads."""
        heads = x[:, first:end]
        self.norm(heads, weight, eps, heads)

    def rotate(self, x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Implement FusedOps.rotate."""
        turned = x[:, :heads, : cos.shape[1]]
        wide, half = turned.float(), cos.shape[1] // 2
        crossed = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
        turned.copy_(wide * cos[:, None] + crossed * sin[:, None])

    def gated(
        self,
        x: torch.Tensor,
        gate_up: Linear,
        activation: Activation,
        products: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """Implement FusedOps.gated."""
        matmul(x, gate_up, products)
        gate(products, activation, out)


def gate(gate_up: torch.Tensor, activation: Activation, out: torch.Tensor) -> None:
    """out [T, n] = activation(gate) * up, from [T, 2n]; in float32."""
    number, up = gate_up.chunk(2, dim=-1)
    wide = number.float()
    active = (
        functional.silu(wide) if activation == "silu" else functional.gelu(wide, approximate="tanh")
    )
    out.copy_(active * up)


def matmul(x: torch.Tensor, layer: Linear, out: torch.Tensor) -> None:
    """Write torch's product into `out`, whose dtype may be wider than that of x."""
    result = out if out.dtype == x.dtype else x.new_empty(out.shape)
    if layer.bias is None:
        torch.mm(x, layer.weight.t(), out=result)
    else:
        torch.addmm(layer.bias, x, layer.weight.t(), out=result)
    if result is not out:
        out.copy_(result)
