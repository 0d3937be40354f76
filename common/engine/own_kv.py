"""Keys and values that a model left in `transformers`' own cache, in the shapes that ours are stored in."""

import torch

from common.engine.memory.block_storage import Piece


def like_stored(own: Piece, stored: Piece) -> Piece | None:
    """Return a model's own keys and values in the shapes of stored ones; None where they have others.

    Falcon repeats its KV heads, and one of each run is stored. Latent attention caches latents and what is
    rotated of keys. Both behind one another are stored as keys, and latents again as values.
    """
    repeats = max(own[0].shape[1] // stored[0].shape[1], 1)
    repeated = own[0][:, ::repeats], own[1][:, ::repeats]
    for keys, values in (own, repeated, (torch.cat(own, dim=-1), own[0])):
        if _sizes(keys, values) == _sizes(*stored):
            return keys, values
    return None


def _sizes(*pair: torch.Tensor) -> list[torch.Size]:
    return [x.shape[1:] for x in pair]
