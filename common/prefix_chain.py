"""Keys under which a sequence's whole blocks are found again."""

import struct
from collections.abc import Sequence
from hashlib import blake2b

_DIGEST_BYTES = 16
_SALT_BYTES = 32


class PrefixChain:
    """Keys of a sequence, one for each whole block; the chain grows as the sequence grows.

    A key is a digest of the salt and all tokens up to the block's end (BLAKE2b, keyed by the model's
    fingerprint). The block's own tokens follow it, so that a lookup compares tokens, and a chain all of them.
    """

    __slots__ = ("_block_size", "_hash", "keys", "num_keyed")

    def __init__(self, fingerprint: str, salt: str, block_size: int) -> None:
        self._block_size = block_size
        self._hash = blake2b(digest_size=_DIGEST_BYTES, key=_fold(fingerprint))
        self._hash.update(_fold(salt))
        self.keys: list[bytes] = []
        self.num_keyed = 0  # blocks of the current table that carry their key

    def grow(self, token_ids: Sequence[int], num_blocks: int) -> None:
        """Make the keys of the first `num_blocks` blocks, as far as they are missing."""
        start = len(self.keys) * self._block_size
        end = num_blocks * self._block_size
        if end <= start:
            return
        raw = struct.pack(f"<{end - start}i", *token_ids[start:end])
        step = 4 * self._block_size
        update, digest, append = self._hash.update, self._hash.digest, self.keys.append
        for at in range(0, len(raw), step):
            tokens = raw[at : at + step]
            update(tokens)
            append(digest() + tokens)


def _fold(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=_SALT_BYTES).digest()
