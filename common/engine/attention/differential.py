"""Differential attention (Ye et al. 2024) of DiffLlama, by modules of ours.

Its module attends twice with the same keys, each time over half of the value heads. One call with both
halves side by side, as values of twice the channels, gives the same; a layer stores its values once.
"""

from importlib import import_module
from typing import Any

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import AttentionForm

Module = Any  # modules of `transformers`, read by attribute name


def take_over_differential(model: Module, backend: AttentionBackend) -> None:
    """Replace the attention modules of a DiffLlama; leave any other model as it is."""
    if getattr(getattr(model, "config", None), "model_type", None) != "diffllama":
        return
    for layer in model.model.layers:
        theirs = layer.self_attn
        is_ours = isinstance(theirs, _DifferentialAttention)
        layer.self_attn = _DifferentialAttention(theirs.theirs if is_ours else theirs, backend)


class _DifferentialAttention(torch.nn.Module):  # type: ignore[misc]
    """Module in the place of DiffLlamaAttention."""

    def __init__(self, theirs: Module, backend: AttentionBackend) -> None:
        super().__init__()
        self.theirs, self._backend = theirs, backend
        self._place = backend.kv_places[theirs.layer_idx]
        self._form = AttentionForm(theirs.scaling)
        self._rotate = import_module(type(theirs).__module__).apply_rotary_pos_emb

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **unused: object,
    ) -> tuple[torch.Tensor, None]:
        """Attend for `hidden_states` [1, T, n], whatever mask is given."""
        theirs = self.theirs
        shape = (*hidden_states.shape[:2], -1, theirs.head_dim)
        products = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
        query, key, value = (product(hidden_states).view(shape) for product in products)
        query, key = self._rotate(query, key, *position_embeddings, unsqueeze_dim=2)
        halves = value[0].chunk(2, dim=1)
        values = torch.cat([half.repeat(1, 2, 1) for half in halves], dim=-1)
        out = self._backend.attend(self._place, query[0], key[0], values, self._form)
        return theirs.o_proj(self._combined(out).flatten(1))[None], None

    def _combined(self, out: torch.Tensor) -> torch.Tensor:
        """Return [T, heads / 2, 2 dim]: the first half of the heads less a share of the second."""
        theirs = self.theirs
        pairs = ((theirs.lambda_q1, theirs.lambda_k1), (theirs.lambda_q2, theirs.lambda_k2))
        one, two = (
            torch.exp(torch.sum(q * k, dim=-1, dtype=torch.float32)).to(out.dtype) for q, k in pairs
        )
        first, second = out.chunk(2, dim=1)
        mixed = first - (one - two + theirs.lambda_init) * second
        return (1 - theirs.lambda_init) * theirs.groupnorm(mixed)
