"""Prefix sharing (vLLM's automatic prefix caching, Kwon et al. 2023). Touches no tensor.

KV computed once serves every sequence that begins with the same tokens.

A block gets its key as soon as it is whole and computed, from a prompt and from generated tokens alike. So a
chat's next turn finds its last one. A block with a key is never written again, since a sequence writes
only behind its computed tokens and shares whole blocks only.
"""

from collections.abc import Iterable

from common.engine.memory.block_pool import BlockPool
from common.engine.sequence import Sequence
from common.engine.state.slots import StateSlots
from common.engine.timeline import Timeline
from common.messages import WorkRequest
from common.prefix_chain import PrefixChain


class PrefixCache:
    """Allocator of sequences' blocks, shared ones first, and of their slots in a model with state."""

    def __init__(
        self,
        pool: BlockPool,
        fingerprint: str,
        *,
        is_enabled: bool = True,
        slots: StateSlots | None = None,
    ) -> None:
        self.pool = pool
        self.slots = slots
        self.num_query_tokens = 0
        self.num_hit_tokens = 0
        self._fingerprint = fingerprint
        self._is_enabled = is_enabled
        self._leaders: dict[str, Sequence] = {}  # by group: the one that computes the prompt now

    def new_sequence(self, request: WorkRequest, arrival_s: float) -> Sequence:
        """Make a sequence with the keys of its prompt, which cost more than finding them. Any thread."""
        # a request with output has run on a worker that is lost
        num_tokens_run = request.num_given_tokens if request.prior_token_ids else 0
        seq = Sequence(request, Timeline(arrival_s, num_tokens_run=num_tokens_run))
        self._findable_keys(seq)
        return seq

    def reserve(self, seq: Sequence, num_tokens: int, *, keep_free: int = 0) -> bool:
        """Give a sequence without blocks those of its first `num_tokens` positions, and its slot.

        Returns False where fewer than `keep_free` blocks would be left, or no slot is free, or while another
        sequence of the group computes the prompt. Positions of a known prefix count as computed from here on.
        """
        pool = self.pool
        if self.is_led(seq) or (self.slots is not None and not self.slots.num_free):
            return False
        num_blocks = pool.num_blocks_for(num_tokens)
        known = pool.find(self._findable_keys(seq))
        num_new = num_blocks - len(known)
        if not pool.can_allocate(num_new + pool.num_cached_among(known), keep_free=keep_free):
            return False
        if self.slots is not None:
            seq.state_slot = self.slots.take()
        pool.share(known)
        seq.block_table = known + pool.allocate(num_new)
        seq.num_shared_blocks = len(known)
        seq.num_computed_tokens = len(known) * pool.block_size
        self._note(seq, len(known))
        if (
            seq.request.group
            and self._is_enabled
            and not self._is_shareable(seq, seq.num_computed_tokens)
        ):
            self._leaders[seq.request.group] = seq
        return True

    def is_led(self, seq: Sequence) -> bool:
        """Return True if another sequence of the group computes the prompt now."""
        return seq.request.group in self._leaders

    def release(self, seq: Sequence) -> None:
        """Take the sequence's blocks and slot back. Safe to repeat."""
        self._stop_leading(seq)
        if self.slots is not None and seq.state_slot is not None:
            self.slots.give_back(seq.state_slot)
            seq.state_slot = None
        self.pool.release(seq.block_table)
        seq.block_table = []  # another list: see BlockTables

    def check_integrity(self, live: Iterable[Sequence]) -> None:
        """Verify that these sequences, and nobody else, hold blocks and slots. Raises AssertionError."""
        live = tuple(live)
        self.pool.check_integrity([block for seq in live for block in seq.block_table])
        if self.slots is not None:
            self.slots.check_integrity(s.state_slot for s in live if s.state_slot is not None)

    def num_held_prefix_blocks(self, seq: Sequence) -> int:
        """Count blocks that `reserve` would find now and that others hold, so that they cost nothing."""
        known = self.pool.find(self._findable_keys(seq))
        return len(known) - self.pool.num_cached_among(known)

    def num_shared_tokens(self, seq: Sequence) -> int:
        """Count computed positions in blocks that others hold too."""
        num_shared = self.pool.num_shared_among(seq.block_table)
        return min(num_shared * self.pool.block_size, seq.num_computed_tokens)

    def publish(self, seq: Sequence, num_computed_tokens: int | None = None) -> None:
        """Let others find the sequence's blocks that are whole and computed.

        `num_computed_tokens` limits them while a step is in flight: the sequence counts more positions as
        computed, whose tokens are not known yet (decode_worker/lookahead.py).
        """
        if num_computed_tokens is None:
            num_computed_tokens = seq.num_computed_tokens
        num_whole = num_computed_tokens // self.pool.block_size
        chain = self._chain(seq)
        if num_whole <= chain.num_keyed or not self._is_enabled:
            return
        chain.grow(seq.token_ids, num_whole)
        new = slice(chain.num_keyed, num_whole)
        self.pool.add_keys(seq.block_table[new], chain.keys[new])
        chain.num_keyed = num_whole
        if self._is_shareable(seq, num_computed_tokens):
            self._stop_leading(seq)

    def forget(self, seq: Sequence) -> None:
        """Let nobody find the sequence's blocks: their content is not to be trusted."""
        self.pool.forget(seq.block_table)

    def _is_shareable(self, seq: Sequence, num_computed_tokens: int) -> bool:
        """Return True if everything that another sequence of the group could share is computed."""
        size = self.pool.block_size
        return num_computed_tokens >= (seq.num_prompt_tokens - 1) // size * size

    def _stop_leading(self, seq: Sequence) -> None:
        if self._leaders.get(seq.request.group) is seq:
            del self._leaders[seq.request.group]

    def _chain(self, seq: Sequence) -> PrefixChain:
        if seq.chain is None:
            salt = seq.request.cache_salt
            seq.chain = PrefixChain(self._fingerprint, salt, self.pool.block_size)
        return seq.chain

    def _findable_keys(self, seq: Sequence) -> list[bytes]:
        """Return the keys of all whole blocks before the last token, whose logits are wanted."""
        if not self._is_enabled or seq.needs_prompt_logits:
            return []
        chain = self._chain(seq)
        num_blocks = (len(seq.token_ids) - 1) // self.pool.block_size
        chain.grow(seq.token_ids, num_blocks)
        return chain.keys[:num_blocks]

    def _note(self, seq: Sequence, num_known: int) -> None:
        self._chain(seq).num_keyed = num_known
        if seq.timeline.num_preemptions == 0:
            seq.timeline.num_cached_tokens = seq.num_computed_tokens
            self.num_query_tokens += len(seq.token_ids)
            self.num_hit_tokens += seq.num_computed_tokens
