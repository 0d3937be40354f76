"""Owner of the KV blocks: who may use which, and how many are left. Touches no tensor."""

from collections.abc import Iterable


class OutOfBlocksError(RuntimeError):
    """More blocks were asked for than are free; callers ask `can_allocate` first."""


class BlockPool:
    """Free list and reference counts of `num_blocks` blocks of `block_size` positions.

    The block freed last is used first: its memory is in the caches, and memory never needed is never touched.
    Invariant: every block is either on the free list with a count of 0, or off it with a count >= 1.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(
                f"need at least one block of one token, got {num_blocks=} {block_size=}"
            )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._ref_counts = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free)

    @property
    def num_held(self) -> int:
        """Blocks that some sequence holds."""
        return self.num_blocks - len(self._free)

    @property
    def num_cached(self) -> int:
        """Free blocks that still hold a known prefix; none until there is a prefix cache."""
        return 0

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` positions need."""
        return -(-num_tokens // self.block_size)

    def can_allocate(self, num_blocks: int, *, keep_free: int = 0) -> bool:
        """Whether `num_blocks` can be had with `keep_free` left over."""
        return len(self._free) - num_blocks >= keep_free

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks; the caller holds one reference to each. Raises OutOfBlocksError."""
        if num_blocks > len(self._free):
            raise OutOfBlocksError(f"{num_blocks} blocks wanted, {len(self._free)} free")
        taken = [self._free.pop() for _ in range(num_blocks)]
        for block_id in taken:
            self._ref_counts[block_id] = 1
        return taken

    def release(self, block_ids: Iterable[int]) -> None:
        """Give one reference to each block back."""
        for block_id in block_ids:
            count = self._ref_counts[block_id]
            if count < 1:
                raise ValueError(f"block {block_id} is released but nobody holds it")
            self._ref_counts[block_id] = count - 1
            if count == 1:
                self._free.append(block_id)

    def check_integrity(self, held: Iterable[int] | None = None) -> None:
        """Verify the invariant; with `held`, also that exactly these references exist.

        Raises AssertionError: a violation is a bug of ours, never of an input.
        """
        free = set(self._free)
        if len(free) != len(self._free):
            raise AssertionError("a block is on the free list twice")
        for block_id, count in enumerate(self._ref_counts):
            if (count == 0) != (block_id in free):
                raise AssertionError(f"block {block_id}: count {count}, free {block_id in free}")
        if held is None:
            return
        expected = [0] * self.num_blocks
        for block_id in held:
            expected[block_id] += 1
        if expected != self._ref_counts:
            leaked = [b for b, n in enumerate(self._ref_counts) if n != expected[b]]
            raise AssertionError(f"reference counts differ from holders at blocks {leaked[:20]}")
