"""Attention of GPT-1, whose module attends by hand and gives its keys and values to no cache."""

from collections.abc import Callable
from typing import Any

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import AttentionForm

Module = Any  # modules of `transformers`, read by attribute name


def take_over_without_cache(model: Module, backend: AttentionBackend) -> None:
    """Replace the method by which a GPT-1's layers attend; leave any other model as it is."""
    if getattr(getattr(model, "config", None), "model_type", None) != "openai-gpt":
        return
    for layer, block in enumerate(model.transformer.h):
        block.attn._attn = _attention(backend, backend.kv_places[layer])


def _attention(backend: AttentionBackend, place: int) -> Callable[..., list[torch.Tensor]]:
    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *unused: object
    ) -> list[torch.Tensor]:
        """Attend for `query` and `value` [1, heads, T, dim], `key` [1, heads, dim, T]; one alike."""
        form = AttentionForm(query.shape[-1] ** -0.5)
        queries, values = (x[0].transpose(0, 1) for x in (query, value))
        out = backend.attend(place, queries, key[0].permute(2, 0, 1), values, form)
        return [out.transpose(0, 1)[None]]

    return attend
