"""Host memory without tensors, for schedulers that are driven by tests."""

from common.engine.memory.prefix_cache import PrefixCache
from common.engine.sequence import Sequence
from tests.unit.common.engine.block_contents import BlockContents


class NoHostMemory:
    """Has no room; see HostMemory."""

    def save(self, seq: Sequence) -> bool:
        """See HostMemory."""
        return False

    def restore(self, seq: Sequence) -> None:
        """See HostMemory."""

    def num_bytes_of(self, seq: Sequence) -> int:
        """See HostMemory."""
        return 0

    def drop(self, seq: Sequence) -> None:
        """See HostMemory."""


class ContentsMemory:
    """Holds what a BlockContents says of so many sequences at once; see HostMemory."""

    def __init__(self, contents: BlockContents, prefix: PrefixCache, max_sequences: int) -> None:
        self._contents = contents
        self._prefix = prefix
        self._max_sequences = max_sequences
        self.lengths: dict[Sequence, int] = {}

    def save(self, seq: Sequence) -> bool:
        """See HostMemory."""
        if not seq.num_computed_tokens or len(self.lengths) >= self._max_sequences:
            return False
        self._contents.check(seq)
        self.lengths[seq] = seq.num_computed_tokens
        return True

    def restore(self, seq: Sequence) -> None:
        """See HostMemory."""
        num_tokens = self.lengths.pop(seq, 0)
        if num_tokens > seq.num_computed_tokens:
            self._contents.run(seq, num_tokens - seq.num_computed_tokens)
            seq.num_computed_tokens = num_tokens
            self._prefix.publish(seq)

    def num_bytes_of(self, seq: Sequence) -> int:
        """See HostMemory. One byte a token."""
        return self.lengths.get(seq, 0)

    def drop(self, seq: Sequence) -> None:
        """See HostMemory."""
        self.lengths.pop(seq, None)
