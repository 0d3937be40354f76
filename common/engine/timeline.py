"""Times of the events of a sequence."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from common.engine.remote_prefill import RemotePrefill
from common.timings import DecodeStepTiming, PrefillChunkTiming, WorkTimings

STEPS_KEPT = 64  # at each end of a sequence's decode steps


class StepLog:
    """Log of any number of steps that keeps the first and the last STEPS_KEPT."""

    __slots__ = ("_first", "_last", "num_steps")

    def __init__(self) -> None:
        self.num_steps = 0
        self._first: list[DecodeStepTiming] = []
        self._last: deque[DecodeStepTiming] = deque(maxlen=STEPS_KEPT)

    def add(self, step: DecodeStepTiming) -> None:
        """Note one more step; sequences of a batch share the object."""
        self.num_steps += 1
        if len(self._first) < STEPS_KEPT:
            self._first.append(step)
        else:
            self._last.append(step)

    def __iter__(self) -> Iterator[DecodeStepTiming]:
        yield from self._first
        yield from self._last


@dataclass(slots=True)
class Timeline:
    """Monotonic seconds of this process. `chunks` are the prompt's steps that ran here, since arrival."""

    arrival_s: float
    chunks: list[PrefillChunkTiming] = field(default_factory=list)
    remote: RemotePrefill | None = None
    joined_decode_s: float | None = None
    steps: StepLog = field(default_factory=StepLog)
    kv_bytes: int = 0
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    num_tokens_run: int = 0  # before a preemption, or on workers that had the request before

    def record_chunk(self, start_s: float, end_s: float, num_tokens: int) -> None:
        """Note one prefill step; `start_s` and `end_s` are on this process's monotonic clock."""
        self.chunks.append(
            PrefillChunkTiming(start_s - self.arrival_s, end_s - start_s, num_tokens)
        )

    @property
    def prefill_chunks(self) -> tuple[PrefillChunkTiming, ...]:
        """All steps that ran the prompt, those of a prefill worker first; since arrival."""
        elsewhere = self.remote.chunks(self.arrival_s) if self.remote else ()
        return (*elsewhere, *self.chunks)

    @property
    def handoff_s(self) -> float | None:
        """Seconds from the end of prefill elsewhere to the decode step that included the sequence."""
        end_s = self.remote.end_s if self.remote else None
        if end_s is None or self.joined_decode_s is None:
            return None
        return self.joined_decode_s - end_s

    def summary(self) -> WorkTimings:
        """Return the spans to report; starts count from the arrival here."""
        chunks, remote = self.prefill_chunks, self.remote
        return WorkTimings(
            queue_s=chunks[0].start_s if chunks else 0.0,
            prefill_chunks=chunks,
            handoff_s=self.handoff_s or 0.0,
            kv_bytes=self.kv_bytes,
            num_preemptions=self.num_preemptions,
            num_cached_tokens=self.num_cached_tokens,
            pull_s=remote.asked_s - self.arrival_s if remote else None,
            transfers=remote.transfers(self.arrival_s) if remote else (),
            decode_steps=tuple(
                replace(step, start_s=step.start_s - self.arrival_s) for step in self.steps
            ),
            num_decode_steps=self.steps.num_steps,
            clock_error_s=remote.error_s if remote else 0.0,
        )
