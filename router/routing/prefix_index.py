"""Prefixes that each worker holds, as it reports them: exact, by the keys of whole blocks.

Plain data; no sockets, no clocks.
"""

from collections.abc import Sequence

from common.prefix_chain import PrefixChain
from common.prefix_log import DIGEST_BYTES, PrefixUpdate

_GROW_BLOCKS = 64  # keys made at once: most prompts differ early from known ones


class PromptKeys:
    """Block keys of one prompt, made as they are asked for, for each block size in use."""

    def __init__(self, fingerprint: str, salt: str, token_ids: Sequence[int]) -> None:
        self._fingerprint = fingerprint
        self._salt = salt
        self._token_ids = token_ids
        self._chains: dict[int, PrefixChain] = {}

    def num_blocks(self, block_size: int) -> int:
        """Return the whole blocks that a worker can share; the last token is always computed."""
        return (len(self._token_ids) - 1) // block_size if block_size else 0

    def digest(self, block_size: int, index: int) -> bytes:
        """Return the digest of a block's key; `index` is below `num_blocks`."""
        chain = self._chains.get(block_size)
        if chain is None:
            chain = PrefixChain(self._fingerprint, self._salt, block_size)
            self._chains[block_size] = chain
        if index >= len(chain.keys):
            wanted = min(index + _GROW_BLOCKS, self.num_blocks(block_size))
            chain.grow(self._token_ids, wanted)
        return chain.keys[index][:DIGEST_BYTES]


class PrefixIndex:
    """Prefixes of one worker, from a snapshot on; empty before it."""

    def __init__(self) -> None:
        self._held: set[bytes] = set()
        self._reached: int | None = None

    def __len__(self) -> int:
        return len(self._held)

    def apply(self, update: PrefixUpdate) -> bool:
        """Apply a worker's update. Return False when it does not follow the last one.

        Then a snapshot is needed; the index stays empty until it comes.
        """
        if update.is_snapshot:
            self._held.clear()
        elif update.start != self._reached:
            was_in_step = self._reached is not None
            self._held.clear()
            self._reached = None
            return not was_in_step  # one request for a snapshot is enough
        self._held.difference_update(update.removed)
        self._held.update(update.added)
        self._reached = update.end
        return True

    def num_tokens(self, keys: PromptKeys, block_size: int) -> int:
        """Return the number of tokens at the prompt's start whose KV the worker holds."""
        num_held = 0
        if self._held:
            while num_held < keys.num_blocks(block_size):
                if keys.digest(block_size, num_held) not in self._held:
                    break
                num_held += 1
        return num_held * block_size
