"""Where a request's time went: plain spans, in seconds from a zero that their holder names."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class PrefillChunkTiming:
    """One prefill step's share in one prompt. `is_remote` says that it ran on another worker."""

    start_s: float
    duration_s: float
    num_tokens: int
    is_remote: bool = False


@dataclass(frozen=True, slots=True)
class TransferTiming:
    """One run of KV: copied out of prefill's blocks, on its way until it lay verified in decode's memory
    (`wire_s`, which begins where the copy ends), waiting, copied into decode's blocks.
    """

    copy_out_start_s: float
    copy_out_s: float
    wire_s: float
    insert_start_s: float
    insert_s: float
    num_tokens: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class DecodeStepTiming:
    """A decode step, and the sequences and tokens that it ran."""

    start_s: float
    duration_s: float
    num_sequences: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class WorkTimings:
    """A request's spans as the decode worker saw them; starts count from the request's arrival there.

    `decode_steps` are the first and the last of `num_decode_steps`. What prefill timed on its own clock may
    lie wrong by `clock_error_s`. `pull_s` is None where the prompt ran on the decode worker.
    """

    queue_s: float = 0.0
    prefill_chunks: tuple[PrefillChunkTiming, ...] = ()
    handoff_s: float = 0.0
    kv_bytes: int = 0
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    pull_s: float | None = None
    transfers: tuple[TransferTiming, ...] = ()
    decode_steps: tuple[DecodeStepTiming, ...] = ()
    num_decode_steps: int = 0
    clock_error_s: float = 0.0

    def after(self, offset_s: float) -> "WorkTimings":
        """The same, counted from a moment `offset_s` before."""
        return replace(
            self,
            queue_s=self.queue_s + offset_s,
            pull_s=None if self.pull_s is None else self.pull_s + offset_s,
            prefill_chunks=tuple(
                replace(c, start_s=c.start_s + offset_s) for c in self.prefill_chunks
            ),
            transfers=tuple(
                replace(
                    t,
                    copy_out_start_s=t.copy_out_start_s + offset_s,
                    insert_start_s=t.insert_start_s + offset_s,
                )
                for t in self.transfers
            ),
            decode_steps=tuple(replace(s, start_s=s.start_s + offset_s) for s in self.decode_steps),
        )
