"""The fused forward pass of a pre-norm decoder with gated MLPs.

Against the general path (`transformers`' own modules) it merges the Q, K, V and the gate and up products,
adds the residual inside the norm, computes rotary tables once a step, and reuses one workspace for every
layer and step. Activations flow as [T, n]; nothing is padded.
"""

from dataclasses import dataclass

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.device_copy import to_device
from common.engine.fused.ops import FusedOps
from common.engine.fused.weights import DecoderWeights, LayerWeights
from common.engine.ragged import RaggedInputs

Tables = dict[str | None, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class _Workspace:
    """Activations of one layer for T tokens; the next layer writes over them."""

    residual: (
        torch.Tensor
    )  # [T, hidden] float32 whatever the model's dtype: sums of many layers round least
    normed: torch.Tensor  # [T, hidden]
    delta: torch.Tensor  # [T, hidden] what attention or MLP adds to the residual
    qkv: torch.Tensor  # [T, (heads + 2 kv_heads) * head_dim]
    gate_up: torch.Tensor  # [T, 2 * intermediate]
    gated: torch.Tensor  # [T, intermediate]

    @staticmethod
    def allocate(weights: DecoderWeights, tokens: int) -> "_Workspace":
        hidden, first = weights.embedding.shape[1], weights.layers[0]
        inner = max(layer.gate_up.out_features for layer in weights.layers)
        widths = (hidden, hidden, hidden, first.qkv.out_features, inner, inner // 2)
        residual, *others = (weights.embedding.new_empty(tokens, width) for width in widths)
        return _Workspace(residual.float(), *others)

    def first(self, tokens: int) -> "_Workspace":
        parts = (self.residual, self.normed, self.delta, self.qkv, self.gate_up, self.gated)
        return _Workspace(*(part[:tokens] for part in parts))


class FusedDecoder:
    """Turns a step's ragged inputs into logits; see TokenModel."""

    name = "fused"

    def __init__(self, weights: DecoderWeights, ops: FusedOps, backend: AttentionBackend) -> None:
        self._weights = weights
        self._ops = ops
        self._backend = backend
        self._workspace = _Workspace.allocate(weights, 1)

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """See TokenModel.logits."""
        with torch.inference_mode():
            weights = self._weights
            device = weights.embedding.device
            self._backend.begin(inputs)
            work = self._reserve(len(inputs.input_ids))
            self._embed(inputs.ids_on(device), work)
            tables = self._rotary_tables(to_device(inputs.positions, device))
            for index, layer in enumerate(weights.layers):
                self._run_layer(index, layer, work, tables[layer.rotary])
            return self._head(work, to_device(inputs.sample_rows, device))

    def _reserve(self, tokens: int) -> _Workspace:
        if tokens > len(self._workspace.residual):
            self._workspace = _Workspace.allocate(self._weights, tokens)
        return self._workspace.first(tokens)

    def _embed(self, input_ids: torch.Tensor, work: _Workspace) -> None:
        work.residual.copy_(self._weights.embedding[input_ids])
        if self._weights.embedding_scale is not None:
            work.residual.mul_(self._weights.embedding_scale)

    def _rotary_tables(self, positions: torch.Tensor) -> Tables:
        # a float32 example makes the model's module give float32 tables
        example = self._weights.embedding.new_empty(1, dtype=torch.float32)
        tables: Tables = {}
        for kind in {layer.rotary for layer in self._weights.layers}:
            kinds = () if kind is None else (kind,)
            cos, sin = self._weights.rotary(example, positions[None], *kinds)
            tables[kind] = (cos[0], sin[0])
        return tables

    def _run_layer(
        self,
        index: int,
        layer: LayerWeights,
        work: _Workspace,
        table: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        weights, ops, eps = self._weights, self._ops, self._weights.norm_eps
        if index == 0:
            ops.norm(work.residual, layer.attention_norm, eps, work.normed)
        else:
            ops.add_norm(work.residual, work.delta, layer.attention_norm, eps, work.normed)
        ops.linear(work.normed, layer.qkv, work.qkv)
        attended = self._attend(index, layer, work, table)
        ops.linear(attended, layer.output, work.delta)
        if layer.post_attention_norm is not None:
            ops.norm(work.delta, layer.post_attention_norm, eps, work.delta)
        ops.add_norm(work.residual, work.delta, layer.mlp_norm, eps, work.normed)
        ops.linear(work.normed, layer.gate_up, work.gate_up)
        ops.gate(work.gate_up, work.gated, weights.activation)
        ops.linear(work.gated, layer.down, work.delta)
        if layer.post_mlp_norm is not None:
            ops.norm(work.delta, layer.post_mlp_norm, eps, work.delta)

    def _attend(
        self,
        index: int,
        layer: LayerWeights,
        work: _Workspace,
        table: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        weights, ops = self._weights, self._ops
        queries, rotated = weights.num_heads, weights.num_heads + weights.num_kv_heads
        heads = work.qkv.view(len(work.qkv), -1, weights.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            ops.norm_heads(heads, 0, queries, layer.q_norm, weights.norm_eps)
            ops.norm_heads(heads, queries, rotated, layer.k_norm, weights.norm_eps)
        ops.rotate(heads, rotated, *table)
        query, key, value = heads[:, :queries], heads[:, queries:rotated], heads[:, rotated:]
        out = self._backend.attend(index, query, key, value, weights.scale, layer.window)
        return out.flatten(1)

    def _head(self, work: _Workspace, sample_rows: torch.Tensor) -> torch.Tensor:
        weights = self._weights
        residual, delta = work.residual[sample_rows], work.delta[sample_rows]
        self._ops.add_norm(residual, delta, weights.final_norm, weights.norm_eps, delta)
        # in bfloat16 the likeliest tokens would often tie: a step is 0.125 at 25
        logits = residual.new_empty(len(delta), weights.head.out_features)
        self._ops.linear(delta, weights.head, logits)
        if weights.logit_softcap is not None:
            logits = torch.tanh(logits / weights.logit_softcap) * weights.logit_softcap
        return logits
