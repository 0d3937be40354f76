"""Time spans of a request, in seconds; the holder of a span names the zero that it counts from."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class PrefillChunkTiming:
    """One prefill step's share of a prompt; `is_remote` if it ran on another worker."""

    start_s: float
    duration_s: float
    num_tokens: int
    is_remote: bool = False


@dataclass(frozen=True, slots=True)
class TransferTiming:
    """One piece of KV: copied out of prefill's blocks, sent, waiting, inserted into decode's blocks.

    `wire_s` begins where the copy ends, and ends when the piece is verified in decode's memory.
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
    """One decode step, with the number of sequences and tokens that it ran."""

    start_s: float
    duration_s: float
    num_sequences: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class WorkTimings:
    """Spans of a request as the decode worker saw them; starts count from the request's arrival there.

    `decode_steps` are the first and the last of `num_decode_steps`. Spans that prefill timed on its own
    clock may be off by `clock_error_s`. `pull_s` is None where the prompt ran on the decode worker.
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
        """Return the same spans, counted from a moment `offset_s` earlier."""
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
