"""Log-probabilities of a prompt's tokens as one buffer: 4-byte words, one row for each token.

A row is the token's own log-probability, those of the k likeliest tokens, and these tokens' ids.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.messages import TokenLogprobs


def pack(entries: Sequence[TokenLogprobs], num_top: int) -> NDArray[np.uint8]:
    """Return entries of `num_top` likeliest tokens each as bytes [entries x (1 + 2 num_top) x 4]."""
    floats = [(entry.logprob, *entry.top_logprobs) for entry in entries]
    ids = [entry.top_token_ids for entry in entries]
    shape = len(entries), num_top
    words = np.empty((shape[0], 1 + 2 * num_top), np.uint32)
    words[:, : 1 + num_top] = np.array(floats, np.float32).reshape(-1, 1 + num_top).view(np.uint32)
    words[:, 1 + num_top :] = np.array(ids, np.uint32).reshape(shape)
    return words.reshape(-1).view(np.uint8)


def unpack(payload: NDArray[np.uint8], num_entries: int, num_top: int) -> list[TokenLogprobs]:
    """Return the entries that `pack` wrote. Raises ValueError when the payload has another size."""
    words = payload.view(np.uint32).reshape(num_entries, 1 + 2 * num_top)
    floats = words[:, : 1 + num_top].view(np.float32).tolist()
    ids = words[:, 1 + num_top :].tolist()
    return [
        TokenLogprobs(row[0], tuple(top), tuple(row[1:]))
        for row, top in zip(floats, ids, strict=True)
    ]
