"""The keys under which a sequence's whole blocks are found again."""

import struct
from collections.abc import Sequence
from hashlib import blake2b

_DIGEST_BYTES = 16
_SALT_BYTES = 32


class PrefixChain:
    """One key a whole block, of all tokens up to its end, grown as the sequence grows.

    A key is the keyed BLAKE2b digest of (model fingerprint; salt, tokens up to the block's end), followed
    by the block's own tokens: finding a key therefore compares tokens, and a chain compares all of them.
    """

    __slots__ = ("_block_size", "_hash", "keys", "num_keyed")

    def __init__(self, fingerprint: str, salt: str, block_size: int) -> None:
        self._block_size = block_size
        self._hash = blake2b(digest_size=_DIGEST_BYTES, key=_fold(fingerprint))
        self._hash.update(_fold(salt))
        self.keys: list[bytes] = []
        self.num_keyed = 0  # blocks of the current table that carry their key

    def grow(self, token_ids: Sequence[int], num_blocks: int) -> None:
        """Have keys for at least the first `num_blocks` blocks."""
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
