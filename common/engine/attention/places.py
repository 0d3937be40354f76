"""Places of a model's layers among the keys and values that a backend keeps."""

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import UnsupportedAttentionError
from common.kv_transfer.layout import KVShape


def place_of(
    owner: str, layer: int, key: torch.Tensor, value: torch.Tensor, backend: AttentionBackend
) -> int:
    """Return the place of the keys and values [1, kv_heads, T, channels] that `owner` has for a layer.

    Raises UnsupportedAttentionError for other shapes than the backend's: blocks would be overrun.
    """
    found = key.shape[1], key.shape[3], value.shape[3]
    place = backend.kv_places[layer] if layer < len(backend.kv_places) else len(backend.kv_shapes)
    expected = backend.kv_shapes[place] if place < len(backend.kv_shapes) else None
    if found == expected:
        return place
    heads, *dims = found
    says = "knows no such layer" if expected is None else f"says {_without_repeat(expected)}"
    raise UnsupportedAttentionError(
        f"{owner} (layer {layer}) has {heads} KV heads of "
        f"{' and '.join(map(str, dict.fromkeys(dims)))} channels, its configuration {says}"
    )


def _without_repeat(shape: KVShape) -> tuple[int, ...]:
    heads, *dims = shape
    return heads, *dict.fromkeys(dims)
