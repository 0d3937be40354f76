"""The account of KV on its way to one decode worker: yielded by prefill and not inserted yet.

A pull is charged for what it can have on its way at once, not for its prompt: `AHEAD` items that the
transport takes before they are asked for, and `AT_HAND` that were fetched and not inserted. Items are cut so
small that two pulls always fit, so that a prompt of any length stays under the cap.
"""

from dataclasses import dataclass

from common.config import TransferConfig
from common.engine.sequence import Sequence
from common.kv_transfer.layout import KVLayout
from common.kv_transfer.node_store import AHEAD, NodeStore
from common.telemetry.logs import get_logger

_log = get_logger()
AT_HAND = 2
_WINDOW = AHEAD + AT_HAND
_MIB = 2**20
_FEW_TOKENS = 64  # below, the fixed cost of a piece is felt
_REMEDY = "raise transfer.max_inflight_mib, transfer.max_item_mib or the object store's size"


class PullCredit:
    """Owns the account of one worker: bytes charged to pulls, and bytes wanted by prompts that wait.

    For the engine's thread only.
    """

    def __init__(self, config: TransferConfig, layout: KVLayout, store: NodeStore) -> None:
        self._config = config
        self._layout = layout
        self._store = store
        self.max_pulls = config.max_concurrent_pulls
        self.taken_bytes = 0
        if self.max_item_tokens < _FEW_TOKENS:
            _log.warning("kv_pieces_are_small", tokens=self.max_item_tokens, remedy=_REMEDY)
        self.wanted_bytes = 0  # by prompts that wait
        self._wanted: dict[Sequence, int] = {}

    @property
    def total_bytes(self) -> int:
        """Limit of `taken_bytes` now; it shrinks when workers come to the node."""
        return min(self._config.max_inflight_mib * _MIB, self._store.share_bytes())

    @property
    def demand_bytes(self) -> int:
        """Bytes charged to pulls, and those that waiting prompts would have cost when they came."""
        return self.taken_bytes + self.wanted_bytes

    @property
    def max_item_tokens(self) -> int:
        """Number of tokens in the longest piece of KV that a pull which starts now asks for."""
        item_bytes = min(self._config.max_item_mib * _MIB, self.total_bytes // (2 * _WINDOW))
        return max(item_bytes // self._layout.num_bytes(1), 1)

    def allowance(self) -> "Allowance":
        """Return what another pull may cost now."""
        total_bytes = self.total_bytes
        max_bytes = self._layout.num_bytes(_WINDOW * self.max_item_tokens)
        free_bytes = total_bytes - self.taken_bytes if self.taken_bytes else max_bytes
        layout = self._layout
        return Allowance(layout.num_bytes(1), layout.state_bytes, max_bytes, free_bytes)

    def cost(self, seq: Sequence) -> int:
        """Return the bytes that a pull of this prompt may have on their way at once."""
        return self.allowance().cost(seq)

    def can_pull(self, seq: Sequence) -> bool:
        """Return True if the cap leaves room to pull `seq` now. With nothing on its way it always may."""
        return self.allowance().can_pull(seq)

    def want(self, seq: Sequence) -> None:
        """Note that a prompt waits; `unwant` must follow."""
        self._wanted[seq] = self.cost(seq)
        self.wanted_bytes += self._wanted[seq]

    def unwant(self, seq: Sequence) -> None:
        """Note that it waits no longer."""
        self.wanted_bytes -= self._wanted.pop(seq)


@dataclass(frozen=True, slots=True)
class Allowance:
    """The cost of pulls and the credit for them, at one moment: quick to ask for many prompts."""

    token_bytes: int
    state_bytes: int  # that follow a prompt's KV
    max_bytes: int  # of one pull, however long its prompt
    free_bytes: int

    def cost(self, seq: Sequence) -> int:
        """Return the bytes that a pull of this prompt may have on their way at once."""
        whole = seq.num_uncomputed_tokens * self.token_bytes + self.state_bytes
        return min(whole, self.max_bytes)

    def can_pull(self, seq: Sequence) -> bool:
        """Return True if a pull of `seq` stays under the cap, or is the only one."""
        return self.cost(seq) <= self.free_bytes
