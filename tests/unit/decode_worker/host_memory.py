"""Host memory without tensors, for schedulers that are driven by tests."""

from common.engine.memory.prefix_cache import PrefixCache
from common.engine.sequence import Sequence
from tests.unit.common.engine.block_contents import BlockContents


class NoHostMemory:
    """A HostMemory without room."""

    def save(self, seq: Sequence) -> bool:
        """Return False: there is no room."""
        return False

    def restore(self, seq: Sequence) -> None:
        """Do nothing: there is no copy."""

    def num_bytes_of(self, seq: Sequence) -> int:
        """Return 0: there is no copy."""
        return 0

    def drop(self, seq: Sequence) -> None:
        """Do nothing: there is no copy."""


class ContentsMemory:
    """A HostMemory for `max_sequences`, which checks contents by a BlockContents."""

    def __init__(self, contents: BlockContents, prefix: PrefixCache, max_sequences: int) -> None:
        self._contents = contents
        self._prefix = prefix
        self._max_sequences = max_sequences
        self.lengths: dict[Sequence, int] = {}

    def save(self, seq: Sequence) -> bool:
        """Note the computed length, if there is room."""
        if not seq.num_computed_tokens or len(self.lengths) >= self._max_sequences:
            return False
        self._contents.check(seq)
        self.lengths[seq] = seq.num_computed_tokens
        return True

    def restore(self, seq: Sequence) -> None:
        """Write the contents again and count them as computed."""
        num_tokens = self.lengths.pop(seq, 0)
        if num_tokens > seq.num_computed_tokens:
            self._contents.run(seq, num_tokens - seq.num_computed_tokens)
            seq.num_computed_tokens = num_tokens
            self._prefix.publish(seq)

    def num_bytes_of(self, seq: Sequence) -> int:
        """Return one byte for each saved token."""
        return self.lengths.get(seq, 0)

    def drop(self, seq: Sequence) -> None:
        """Forget the saved length."""
        self.lengths.pop(seq, None)
