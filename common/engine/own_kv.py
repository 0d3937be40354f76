"""Keys and values that a model has by itself, in the shapes that ours are stored in."""

from typing import Any

import torch

from common.engine.memory.block_storage import Piece
from common.kv_transfer.layout import KVShape, LatentShape


def own_layers(output: Any) -> list[Any]:
    """Return the layers of the `transformers` cache that a model has returned; other kinds have none."""
    cache = getattr(output, "past_key_values", None)
    # decoders that could attend to an encoder have a cache for each of both
    cache = getattr(cache, "self_attention_cache", cache)
    return list(getattr(cache, "layers", ()))


def keys_and_values(layer: Any) -> Piece | None:
    """Return a layer's own keys and values [tokens, kv_heads, dim], float32 on the host, or None."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor):
        return None
    if keys.dim() != 4 or keys.shape[:3] != values.shape[:3]:
        return None
    own_keys, own_values = (x[0].transpose(0, 1).float().cpu() for x in (keys, values))
    return own_keys, own_values


def like_stored(own: Piece, stored: Piece, shape: KVShape) -> Piece | None:
    """Return a model's own keys and values in the `shape` of stored ones; None where they have another.

    Latent attention caches latents and what is rotated of keys. Both behind one another are stored as keys,
    and latents again as values. Falcon repeats its KV heads, and one of each run is stored. JetMoe repeats
    all heads behind one another once they are cached. DiffLlama's values are stored as pairs of heads.
    Channels that key_biases.py puts behind keys are taken as they are stored.
    """
    if isinstance(shape, LatentShape):
        return _of_shape((torch.cat(own, dim=-1), own[0]), shape)
    repeats = max(own[0].shape[1] // shape.num_kv_heads, 1)
    times = max(shape.num_kv_heads // own[0].shape[1], 1)
    keys, values = (x[:, ::repeats].repeat(1, times, 1) for x in own)
    further = stored[0][-len(keys) :, :, keys.shape[2] :]
    if further.shape[2] and further.shape[:2] == keys.shape[:2]:
        keys = torch.cat((keys, further), dim=-1)
    if shape.value_dim == 2 * values.shape[2]:
        values = torch.cat([half.repeat(1, 2, 1) for half in values.chunk(2, dim=1)], dim=-1)
    return _of_shape((keys, values), shape)


def _of_shape(pair: Piece, shape: KVShape) -> Piece | None:
    keys, values = pair
    heads, *dims = shape
    are_alike = [keys.shape[1:], values.shape[1:]] == [(heads, dim) for dim in dims]
    return pair if are_alike else None
