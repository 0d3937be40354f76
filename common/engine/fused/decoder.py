"""Fused forward pass of a pre-norm decoder with gated MLPs.

Differences from the general path (`transformers`' own modules):

- the Q, K, V and the gate and up products are merged, and the norm adds the residual;
- rotary tables are computed once a step, and one workspace serves every layer and step.

Activations flow as [T, n]; nothing is padded.
"""

from dataclasses import dataclass, replace

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import AttentionForm
from common.engine.device_inputs import StepTensors, ToDevice, on_host
from common.engine.fused.ops import FusedOps
from common.engine.fused.weights import DecoderWeights, LayerWeights
from common.engine.ragged import RaggedInputs

_KEPT_LOGITS = 256  # rows; more are wanted for log-probabilities of prompts, once
Tables = dict[str | None, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Workspace:
    """Activations of one layer for T tokens; the next layer writes over them."""

    # [T, hidden] float32 whatever the model's dtype: sums of many layers round least
    residual: torch.Tensor
    normed: torch.Tensor  # [T, hidden]
    delta: torch.Tensor  # [T, hidden] to be added to the residual, from attention or MLP
    # [T, (heads + 2 kv_heads) * head_dim], in the model's dtype, as the blocks are
    qkv: torch.Tensor
    gate_up: torch.Tensor  # [T, 2 * intermediate]
    gated: torch.Tensor  # [T, intermediate]

    @staticmethod
    def allocate(weights: DecoderWeights, tokens: int, dtype: torch.dtype) -> "Workspace":
        """Allocate memory for `tokens` tokens; `dtype` is FusedOps.input_dtype."""
        hidden, first = len(weights.final_norm), weights.layers[0]
        inner = max(layer.gate_up.out_features for layer in weights.layers)

        def rows(width: int, dtype: torch.dtype) -> torch.Tensor:
            return weights.embedding.weight.new_empty(tokens, width, dtype=dtype)

        return Workspace(
            residual=rows(hidden, torch.float32),
            normed=rows(hidden, dtype),
            delta=rows(hidden, dtype),
            qkv=rows(first.qkv.out_features, weights.dtype),
            gate_up=rows(inner, dtype),
            gated=rows(inner // 2, dtype),
        )

    def first(self, tokens: int) -> "Workspace":
        """Return the same memory for fewer tokens."""
        parts = (self.residual, self.normed, self.delta, self.qkv, self.gate_up, self.gated)
        return Workspace(*(part[:tokens] for part in parts))

    def picked(self, rows: torch.Tensor) -> "Workspace":
        """Return the same memory for some of its tokens, whose residuals are copied; at most as many."""
        return replace(self.first(len(rows)), residual=self.residual[rows])


class FusedDecoder:
    """TokenModel that runs a fused decoder."""

    name = "fused"

    def __init__(
        self,
        weights: DecoderWeights,
        ops: FusedOps,
        backend: AttentionBackend,
        to_device: ToDevice = on_host,
    ) -> None:
        self.weights = weights
        self._ops = ops
        self._backend = backend
        self._to_device = to_device
        self._forms = [AttentionForm(weights.scale, layer.window) for layer in weights.layers]
        self._workspace = self.new_workspace(1)
        self._logits = self.new_logits(1)

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits; they last until the next step."""
        step = self._to_device(inputs)
        tokens = len(inputs.input_ids)
        if tokens > len(self._workspace.residual):
            self._workspace = self.new_workspace(tokens)
        logits = self._reserve_logits(len(inputs.sample_rows))
        self.run(step, self._workspace.first(tokens), logits)
        return logits

    def _reserve_logits(self, rows: int) -> torch.Tensor:
        # one memory for all steps: new pages from the system cost more than the product that fills them
        if rows > _KEPT_LOGITS:
            return self.new_logits(rows)
        if rows > len(self._logits):
            self._logits = self.new_logits(rows)
        return self._logits[:rows]

    def new_workspace(self, tokens: int) -> Workspace:
        """Allocate memory for steps of `tokens` tokens."""
        dtype = self._ops.input_dtype(self.weights.dtype)
        return Workspace.allocate(self.weights, tokens, dtype)

    def new_logits(self, rows: int) -> torch.Tensor:
        """Allocate memory for the logits of `rows` rows."""
        # in bfloat16 the likeliest tokens would often tie: a step is 0.125 at 25
        shape = (rows, self.weights.head.out_features)
        return self.weights.embedding.weight.new_empty(shape, dtype=torch.float32)

    def run(self, step: StepTensors, work: Workspace, logits: torch.Tensor) -> None:
        """Compute a step of T tokens in `work`, of T tokens too, into `logits` [rows that sample, vocab].

        Puts work on the current stream and waits for none of it, but for rotary scaling "dynamic".
        """
        with torch.inference_mode():
            self.run_layers(work, self.begin(step, work), logits, step.sample_rows)
            self.cap(logits)

    def begin(self, step: StepTensors, work: Workspace) -> Tables:
        """Prepare the backend, read the tokens' embeddings, and return the step's rotary tables."""
        self._backend.begin(step)
        self.embed(step.input_ids, work)
        return self.rotary_tables(step.positions)

    def run_layers(
        self,
        work: Workspace,
        tables: Tables,
        logits: torch.Tensor,
        sample_rows: torch.Tensor | None = None,
    ) -> None:
        """Run all layers and the head; None stands for all rows, in their order."""
        for index, layer in enumerate(self.weights.layers):
            is_cut = sample_rows is not None and index == len(self.weights.layers) - 1
            attended = self._attend(index, layer, work, tables[layer.rotary], is_cut)
            if sample_rows is not None and is_cut:
                # all keys and values are stored, so that from here on only these rows matter
                work, attended = work.picked(sample_rows), attended[sample_rows]
            if len(attended):
                self._finish_layer(layer, work, attended)
        self._head(work, logits)

    def cap(self, logits: torch.Tensor) -> None:
        """Cap the logits in place, where the model does."""
        cap = self.weights.logit_softcap
        if cap is not None:
            with torch.inference_mode():
                logits.div_(cap).tanh_().mul_(cap)

    def embed(self, input_ids: torch.Tensor, work: Workspace) -> None:
        """Read the tokens' embeddings into the residual."""
        self._ops.embed(input_ids, self.weights.embedding, work.residual)
        if self.weights.embedding_scale is not None:
            self._ops.scale(work.residual, self.weights.embedding_scale)

    def rotary_tables(self, positions: torch.Tensor) -> Tables:
        """Compute cos and sin [T, rotary dim] float32 of the positions [T], for each kind of layer."""
        # a float32 example makes the model's module give float32 tables
        example = self.weights.embedding.weight.new_empty(1, dtype=torch.float32)
        tables: Tables = {}
        for kind in {layer.rotary for layer in self.weights.layers}:
            kinds = () if kind is None else (kind,)
            cos, sin = self.weights.rotary(example, positions[None], *kinds)
            tables[kind] = (cos[0], sin[0])
        return tables

    def _attend(
        self,
        index: int,
        layer: LayerWeights,
        work: Workspace,
        table: tuple[torch.Tensor, torch.Tensor],
        sampled_only: bool,
    ) -> torch.Tensor:
        """Run a layer's first half, up to the output of attention [T, heads * head_dim]."""
        weights, ops, eps = self.weights, self._ops, self.weights.norm_eps
        if index == 0:
            ops.norm(work.residual, layer.attention_norm, eps, work.normed)
        else:
            ops.add_norm(work.residual, work.delta, layer.attention_norm, eps, work.normed)
        ops.linear(work.normed, layer.qkv, work.qkv)
        queries, rotated = weights.num_heads, weights.num_heads + weights.num_kv_heads
        heads = work.qkv.view(len(work.qkv), -1, weights.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            ops.norm_heads(heads, 0, queries, layer.q_norm, weights.norm_eps)
            ops.norm_heads(heads, queries, rotated, layer.k_norm, weights.norm_eps)
        ops.rotate(heads, rotated, *table)
        query, key, value = heads[:, :queries], heads[:, queries:rotated], heads[:, rotated:]
        out = self._backend.attend(index, query, key, value, self._forms[index], sampled_only)
        return out.flatten(1)

    def _finish_layer(self, layer: LayerWeights, work: Workspace, attended: torch.Tensor) -> None:
        """Run a layer's second half; `attended` has the workspace's rows."""
        weights, ops, eps = self.weights, self._ops, self.weights.norm_eps
        ops.linear(attended, layer.output, work.delta)
        if layer.post_attention_norm is not None:
            ops.norm(work.delta, layer.post_attention_norm, eps, work.delta)
        ops.add_norm(work.residual, work.delta, layer.mlp_norm, eps, work.normed)
        ops.gated(work.normed, layer.gate_up, weights.activation, work.gate_up, work.gated)
        ops.linear(work.gated, layer.down, work.delta)
        if layer.post_mlp_norm is not None:
            ops.norm(work.delta, layer.post_mlp_norm, eps, work.delta)

    def _head(self, work: Workspace, logits: torch.Tensor) -> None:
        weights, ops = self.weights, self._ops
        ops.add_norm(work.residual, work.delta, weights.final_norm, weights.norm_eps, work.normed)
        ops.linear(work.normed, weights.head, logits)
