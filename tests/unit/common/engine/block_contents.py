"""Contents of a test's blocks, so that a block used twice, or shared by the wrong sequence, shows."""

from common.engine.sequence import Sequence


class BlockContents:
    """Blocks whose positions remember the tokens that their KV depends on: all up to each."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._slots: dict[tuple[int, int], tuple[int, ...]] = {}

    def run(self, seq: Sequence, num_tokens: int) -> None:
        """Read the computed positions and write `num_tokens` more, as a step does. The caller counts them."""
        self.check(seq)
        for position in range(seq.num_computed_tokens, seq.num_computed_tokens + num_tokens):
            self._slots[self._slot(seq, position)] = tuple(seq.token_ids[: position + 1])

    def check(self, seq: Sequence) -> None:
        """Require that every computed position is there, and is the sequence's own."""
        for position in range(seq.num_computed_tokens):
            held = self._slots.get(self._slot(seq, position))
            assert held == tuple(seq.token_ids[: position + 1]), (position, held)

    def _slot(self, seq: Sequence, position: int) -> tuple[int, int]:
        return seq.block_table[position // self._size], position % self._size
