"""Costs of work on this worker: its start-up profile, corrected by observed times. No tensors here."""

from collections.abc import Callable
from dataclasses import replace

from common.engine.batch import Batch
from common.engine.limits import Limits
from common.engine.sequence import Sequence
from common.profile import WorkerProfile, count_pairs

_SMOOTHING = 0.2
_MOST_AT_ONCE = 4.0
_LEAST_HANDOFF_S = 1e-4
_MOST_OFF = 2.0
_STALE_AFTER_S = 60.0


def within_limits(profile: WorkerProfile, limits: Limits) -> WorkerProfile:
    """Return the profile with the limits that schedulers and routers keep."""
    return replace(
        profile,
        max_batch_tokens=limits.max_batch_tokens,
        max_num_seqs=limits.max_num_seqs,
        itl_target_s=limits.itl_target_s,
    )


class Costs:
    """Moving averages of observed over predicted time. Engine thread only.

    An observation counts as at most four times, and at least a quarter of, the believed value. So a stall (a
    page fault, a neighbour's start) teaches little, and a lasting change still shows in some steps.

    `on_stale` is called once, after _STALE_AFTER_S of steps that cost less than half or more than twice the
    measured time. No burst lasts so long: the measurement is wrong for this machine.
    """

    def __init__(self, profile: WorkerProfile | None = None) -> None:
        """Begin with `profile`, or without one with guesses."""
        self.begin(profile or WorkerProfile())

    def begin(self, measured: WorkerProfile, on_stale: Callable[[], None] | None = None) -> None:
        """Start anew from a measured profile."""
        self._on_stale = on_stale
        self._off_s = {"prefill": 0.0, "decode": 0.0}
        self._measured = self._profile = measured
        self.correction = measured.correction

    @property
    def profile(self) -> WorkerProfile:
        """Measured profile, corrected by the times observed since."""
        # made when asked for: not every step does
        if self._profile.correction is not self.correction:
            self._profile = replace(self._measured, correction=self.correction)
        return self._profile

    def seconds_left(self, seq: Sequence) -> float:
        """Return the seconds that the rest of a prompt takes, alone."""
        num_left, start = seq.num_uncomputed_tokens, seq.num_computed_tokens
        return self.profile.prompt_s(num_left, count_pairs(num_left, start))

    def note_step(self, batch: Batch, seconds: float) -> None:
        """Learn from the time of a batch that ran."""
        num_decoding = num_positions = num_prompt_tokens = 0
        num_pairs = 0.0
        for entry in batch.entries:
            if num_tokens := entry.num_prompt_tokens:
                num_prompt_tokens += num_tokens
                num_pairs += count_pairs(num_tokens, entry.start)
            else:
                num_decoding += 1
                num_positions += entry.start
        if not num_prompt_tokens:
            expected_s = self._measured.decode_step_s(num_decoding, num_positions)
            self._learn("decode", seconds, expected_s)
            self._judge("decode", seconds)
            return
        expected_s = self._measured.prompt_s(num_prompt_tokens, num_pairs, num_decoding)
        decode_s = self.profile.decode_step_s(num_decoding, num_positions)
        if expected_s > decode_s:  # else the difference would be mostly noise
            self._learn("prefill", max(seconds - decode_s, 0.0), expected_s)
            self._judge("prefill", seconds)

    def note_copy_out(self, num_bytes: int, seconds: float) -> None:
        """Learn from the time of a copy of KV out of the blocks."""
        self._learn("copy_out", seconds, num_bytes * self._measured.copy_out_byte_s)

    def note_insert(self, num_bytes: int, seconds: float) -> None:
        """Learn from the time of a copy of KV into blocks."""
        self._learn("insert", seconds, num_bytes * self._measured.insert_byte_s)

    def note_handoff(self, seconds: float) -> None:
        """Learn from the time between prefill elsewhere and the decode step, less the copies."""
        self._learn("handoff_s", max(seconds, _LEAST_HANDOFF_S), 1.0)

    def _learn(self, name: str, observed_s: float, predicted_s: float) -> None:
        if predicted_s <= 0:
            return
        believed = float(getattr(self.correction, name))
        seen = observed_s / predicted_s
        bounded = min(max(seen, believed / _MOST_AT_ONCE), believed * _MOST_AT_ONCE)
        learnt = believed + _SMOOTHING * (bounded - believed)
        self.correction = self.correction._replace(**{name: learnt})

    def _judge(self, name: str, seconds: float) -> None:
        """Judge steps only: the time of a small copy depends on more than its bytes."""
        if 1 / _MOST_OFF <= getattr(self.correction, name) <= _MOST_OFF:
            self._off_s[name] = 0.0
            return
        self._off_s[name] += seconds
        if self._on_stale is not None and self._off_s[name] > _STALE_AFTER_S:
            on_stale, self._on_stale = self._on_stale, None
            on_stale()
