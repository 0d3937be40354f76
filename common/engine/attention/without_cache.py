"""Attention of GPT-1, whose module attends by hand and gives its keys and values to no cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import AttentionForm
from common.engine.own_rounding import as_cached

Module = Any  # modules of `transformers`, read by attribute name


def take_over_without_cache(model: Module, backend: AttentionBackend) -> None:
    """Replace the method by which a GPT-1's layers attend; leave any other model as it is."""
    for layer, attention in enumerate(_modules(model)):
        attention._attn = _attention(backend, backend.kv_places[layer])


@dataclass(frozen=True, slots=True)
class NotedLayer:
    """Keys and values [1, heads, T, dim] of a layer, by the names that a layer of a cache has."""

    keys: torch.Tensor
    values: torch.Tensor


@contextmanager
def noted_layers(model: Module) -> Iterator[list[NotedLayer]]:
    """Note the keys and values of each layer of a GPT-1 as it attends by itself; of other models none."""
    noted: list[NotedLayer] = []
    modules = _modules(model)
    for attention in modules:
        own = partial(type(attention)._attn, attention)  # also where an earlier engine replaced it
        attention._attn = partial(_attend_noted, own, noted)
    try:
        yield noted
    finally:
        for attention in modules:
            del attention._attn


def _modules(model: Module) -> list[Module]:
    """Return the attention modules of a GPT-1, in the order of its layers; none of another model."""
    if getattr(getattr(model, "config", None), "model_type", None) != "openai-gpt":
        return []
    return [block.attn for block in model.transformer.h]


def _attend_noted(
    own: Callable[..., Any],
    noted: list[NotedLayer],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *others: object,
) -> Any:
    keys, value = as_cached(len(noted), key.transpose(2, 3), value)
    noted.append(NotedLayer(keys, value))
    return own(query, keys.transpose(2, 3), value, *others)


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
