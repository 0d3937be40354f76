"""Keys and values that a model left in `transformers`' own cache, in the shapes that ours are stored in."""

import torch

from common.engine.memory.block_storage import Piece
from common.kv_transfer.layout import KVShape, LatentShape


def like_stored(own: Piece, stored: Piece, shape: KVShape) -> Piece | None:
    """Return a model's own keys and values in the `shape` of stored ones; None where they have another.

    Latent attention caches latents and what is rotated of keys. Both behind one another are stored as keys,
    and latents again as values. Falcon repeats its KV heads, and one of each run is stored. Channels that
    key_biases.py puts behind keys are taken as they are stored.
    """
    if isinstance(shape, LatentShape):
        return _of_shape((torch.cat(own, dim=-1), own[0]), shape)
    repeats = max(own[0].shape[1] // shape.num_kv_heads, 1)
    keys, values = (x[:, ::repeats] for x in own)
    further = stored[0][-len(keys) :, :, keys.shape[2] :]
    if further.shape[2] and further.shape[:2] == keys.shape[:2]:
        keys = torch.cat((keys, further), dim=-1)
    return _of_shape((keys, values), shape)


def _of_shape(pair: Piece, shape: KVShape) -> Piece | None:
    keys, values = pair
    heads, *dims = shape
    are_alike = [keys.shape[1:], values.shape[1:]] == [(heads, dim) for dim in dims]
    return pair if are_alike else None
