"""Owner of the KV blocks: holders, free list and prefix keys. Touches no tensor."""

from collections.abc import Iterable, Sequence

from common.prefix_log import PrefixLog


class OutOfBlocksError(RuntimeError):
    """Raised for more blocks than are free; callers ask `can_allocate` first."""


class BlockPool:
    """Free list, reference counts and prefix keys of `num_blocks` blocks of `block_size` positions.

    A block may carry the key of the prefix whose KV it holds (prefix_cache.py makes the keys). When nobody
    holds it any more it stays findable until its memory is wanted. The least recently used goes first, and of
    one sequence's blocks the last, since a chain is found from its head. Blocks without a key go before all
    of them, the one freed last first: its memory is in the CPU's caches.

    Invariant: a block is either held (count >= 1), or free without a key, or cached with one.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(
                f"need at least one block of one token, got {num_blocks=} {block_size=}"
            )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: dict[int, None] = {}  # by last use, the oldest first
        self._ref_counts = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._blocks: dict[bytes, int] = {}
        self.prefixes = PrefixLog(max_changes=num_blocks)

    @property
    def num_free(self) -> int:
        """Number of blocks that can be allocated now, cached ones included."""
        return len(self._free) + len(self._cached)

    @property
    def num_held(self) -> int:
        """Number of blocks that some sequence holds."""
        return self.num_blocks - self.num_free

    @property
    def num_cached(self) -> int:
        """Number of blocks that nobody holds and that can still be found by their key."""
        return len(self._cached)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks `num_tokens` positions need."""
        return -(-num_tokens // self.block_size)

    def can_allocate(self, num_blocks: int, *, keep_free: int = 0) -> bool:
        """Return True if `num_blocks` can be taken now with `keep_free` left over."""
        return self.num_free - num_blocks >= keep_free

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks; the caller holds one reference to each. Raises OutOfBlocksError."""
        if num_blocks > self.num_free:
            raise OutOfBlocksError(f"{num_blocks} blocks wanted, {self.num_free} free")
        taken = [self._free.pop() if self._free else self._evict() for _ in range(num_blocks)]
        for block_id in taken:
            self._ref_counts[block_id] = 1
        return taken

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """Return the blocks that hold the longest known head of this chain of keys."""
        found = []
        for key in keys:
            block_id = self._blocks.get(key)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def num_cached_among(self, block_ids: Iterable[int]) -> int:
        """Count those of these blocks that are free as long as nobody shares them."""
        return sum(self._ref_counts[block_id] == 0 for block_id in block_ids)

    def num_shared_among(self, block_ids: Iterable[int]) -> int:
        """Count those of these blocks that have more than one holder."""
        return sum(self._ref_counts[block_id] > 1 for block_id in block_ids)

    def share(self, block_ids: Iterable[int]) -> None:
        """Take one more reference to blocks that `find` just returned."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                del self._cached[block_id]
            self._ref_counts[block_id] += 1

    def add_keys(self, block_ids: Sequence[int], keys: Sequence[bytes]) -> None:
        """Make held blocks findable, each by its key, unless another one holds the same already."""
        new = []
        for block_id, key in zip(block_ids, keys, strict=True):
            if self._ref_counts[block_id] < 1:
                raise ValueError(f"block {block_id} gets a key but nobody holds it")
            if self._keys[block_id] is None and key not in self._blocks:
                self._keys[block_id] = key
                self._blocks[key] = block_id
                new.append(key)
        self.prefixes.add(new)

    def forget(self, block_ids: Iterable[int]) -> None:
        """Let nobody find these held blocks any more."""
        for block_id in block_ids:
            self._drop_key(block_id)

    def release(self, block_ids: Sequence[int]) -> None:
        """Give one reference to each block back."""
        for block_id in reversed(block_ids):
            count = self._ref_counts[block_id]
            if count < 1:
                raise ValueError(f"block {block_id} is released but nobody holds it")
            self._ref_counts[block_id] = count - 1
            if count == 1 and self._keys[block_id] is None:
                self._free.append(block_id)
            elif count == 1:
                self._cached[block_id] = None

    def check_integrity(self, held: Iterable[int] | None = None) -> None:
        """Verify the invariant; with `held`, also that exactly these references exist.

        Raises AssertionError: a violation is a bug of ours, never of an input.
        """
        free = set(self._free)
        if len(free) != len(self._free):
            raise AssertionError("a block is on the free list twice")
        for block_id, count in enumerate(self._ref_counts):
            is_free, is_cached = block_id in free, block_id in self._cached
            if (count == 0) + is_free + is_cached not in (0, 2):
                raise AssertionError(
                    f"block {block_id}: count {count}, free {is_free}, cached {is_cached}"
                )
            self._check_key(block_id, is_free, is_cached)
        if len(self._blocks) != sum(key is not None for key in self._keys):
            raise AssertionError("a key finds a block that does not carry it")
        if held is None:
            return
        expected = [0] * self.num_blocks
        for block_id in held:
            expected[block_id] += 1
        if expected != self._ref_counts:
            leaked = [b for b, n in enumerate(self._ref_counts) if n != expected[b]]
            raise AssertionError(f"reference counts differ from holders at blocks {leaked[:20]}")

    def _check_key(self, block_id: int, is_free: bool, is_cached: bool) -> None:
        key = self._keys[block_id]
        if (key is None and is_cached) or (key is not None and is_free):
            raise AssertionError(f"block {block_id}: key {key!r}, free {is_free}")
        if key is not None and self._blocks.get(key) != block_id:
            raise AssertionError(f"block {block_id}: its key finds {self._blocks.get(key)}")

    def _evict(self) -> int:
        block_id = next(iter(self._cached))
        del self._cached[block_id]
        self._drop_key(block_id)
        return block_id

    def _drop_key(self, block_id: int) -> None:
        key = self._keys[block_id]
        if key is not None:
            del self._blocks[key]
            self._keys[block_id] = None
            self.prefixes.remove(key)
