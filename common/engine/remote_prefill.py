"""Timings of a prefill worker's share in a sequence, moved onto this process's clock."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from common.timings import PrefillChunkTiming, TransferTiming


@dataclass(frozen=True, slots=True)
class _Transfer:
    """Times of one chunk of KV: the copy out on prefill's clock, the rest on ours."""

    copied_start_s: float
    copied_s: float
    arrived_s: float
    insert_start_s: float
    insert_end_s: float
    num_tokens: int
    num_bytes: int


@dataclass(slots=True)
class RemotePrefill:
    """Times of a prefill worker, on its monotonic clock, whose zero is the prompt's arrival there.

    On our clock that zero lies between `asked_s`, the time of asking, and the least of (arrival here -
    sending there) over all items. The middle is taken, as in Cristian's algorithm (1989). It errs by half
    of that interval at most, and no item arrives before it was sent.
    """

    asked_s: float
    _latest_s: float = math.inf
    _chunks: tuple[PrefillChunkTiming, ...] = ()
    _transfers: list[_Transfer] = field(default_factory=list)

    def note_first_token(
        self, chunks: Iterable[tuple[float, float, int]], sent_s: float, arrived_s: float
    ) -> None:
        """Note token 1 and the steps that ran the prompt: start_s, duration_s, num_tokens of each."""
        self._chunks = tuple(PrefillChunkTiming(*chunk) for chunk in chunks)
        self._latest_s = min(self._latest_s, arrived_s - sent_s)

    def note_transfer(
        self,
        copied: tuple[float, float],
        arrived_s: float,
        inserted: tuple[float, float],
        num_tokens: int,
        num_bytes: int,
    ) -> None:
        """Note a chunk of KV: `copied` is start and duration there, `inserted` start and end here."""
        transfer = _Transfer(*copied, arrived_s, *inserted, num_tokens, num_bytes)
        self._transfers.append(transfer)
        self._latest_s = min(self._latest_s, arrived_s - sum(copied))

    @property
    def zero_s(self) -> float:
        """Arrival of the prompt there, on our clock."""
        return self.asked_s + self.error_s

    @property
    def error_s(self) -> float:
        """Largest error of `zero_s`, either way, in seconds."""
        if math.isinf(self._latest_s):
            return 0.0
        return max(self._latest_s - self.asked_s, 0.0) / 2

    @property
    def end_s(self) -> float | None:
        """End of the prompt's last step, on our clock; None before token 1."""
        if not self._chunks:
            return None
        return self.zero_s + self._chunks[-1].start_s + self._chunks[-1].duration_s

    def chunks(self, since_s: float) -> tuple[PrefillChunkTiming, ...]:
        """Return the prompt's steps, counted from `since_s` on our clock."""
        offset_s = self.zero_s - since_s
        return tuple(
            PrefillChunkTiming(offset_s + c.start_s, c.duration_s, c.num_tokens, is_remote=True)
            for c in self._chunks
        )

    def transfers(self, since_s: float) -> tuple[TransferTiming, ...]:
        """Return the transfers of KV, counted from `since_s` on our clock."""
        return tuple(self._translate(transfer, since_s) for transfer in self._transfers)

    def _translate(self, transfer: _Transfer, since_s: float) -> TransferTiming:
        start_s = self.zero_s + transfer.copied_start_s
        return TransferTiming(
            copy_out_start_s=start_s - since_s,
            copy_out_s=transfer.copied_s,
            # below 0 only if the other side's numbers are nonsense
            wire_s=max(transfer.arrived_s - start_s - transfer.copied_s, 0.0),
            insert_start_s=transfer.insert_start_s - since_s,
            insert_s=transfer.insert_end_s - transfer.insert_start_s,
            num_tokens=transfer.num_tokens,
            num_bytes=transfer.num_bytes,
        )
