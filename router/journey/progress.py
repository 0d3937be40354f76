"""Progress of one choice: the account of its tokens, and the deltas made of its outputs."""

import time
from dataclasses import dataclass, field, replace

from common.messages import FinishReason, SequenceOutput, TokenLogprobs
from common.timings import WorkTimings
from pdserve.errors import InternalError
from router.intake.job import Job
from router.journey.metrics import RouterMetrics
from router.journey.output_text import OutputText
from router.routing.policy import Decision
from router.routing.prediction import Route


@dataclass(frozen=True, slots=True)
class Summary:
    """End of a choice, with its times in seconds: since arrival (`submitted_s` to `total_s`)."""

    reason: FinishReason
    route: Route
    seed: int
    num_output_tokens: int
    submitted_s: float
    first_token_s: float
    total_s: float
    timings: WorkTimings
    stop_text: str  # the client's stop text that ended the choice, or empty

    @property
    def tpot_s(self) -> float | None:
        """Seconds for each token behind the first one; None if there is none."""
        num_later = self.num_output_tokens - 1
        return (self.total_s - self.first_token_s) / num_later if num_later > 0 else None


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of one choice and the text that became certain; the last delta has the summary."""

    choice: int
    index: int
    token_ids: tuple[int, ...]
    text: str
    summary: Summary | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(slots=True)
class Progress:
    """Takes every token of a choice exactly once, in order."""

    job: Job
    choice: int
    decision: Decision
    arrival_s: float
    submitted_s: float
    text: OutputText
    metrics: RouterMetrics
    num_received: int = 0  # tokens that another router sent
    has_moved: bool = field(init=False)
    num_tokens: int = field(init=False)
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    timings: WorkTimings = field(default_factory=WorkTimings)  # the worker's last report

    def __post_init__(self) -> None:
        self.num_tokens = self.num_received
        self.has_moved = bool(self.num_received)

    def advance(self, output: SequenceOutput) -> Delta:
        """Return the delta of the next output.

        Raises InternalError when a token is missing before it.
        """
        index = self.num_tokens
        if output.index > index:
            raise InternalError(f"token {index} is missing: {output.index} came next")
        new = output.token_ids[index - output.index :]
        self._note_times(new)
        if output.timings is not None:
            self._note_timings(output.timings)
        self.num_tokens += len(new)
        text = self.text.push(new, output.finish_reason)
        reason = FinishReason.STOP if self.text.is_stopped else output.finish_reason
        return Delta(
            self.choice,
            index,
            new,
            text,
            self._summarize(reason) if reason else None,
            output.logprobs[index - output.index :],
            output.prompt_logprobs if not index else (),
        )

    def _note_times(self, new: tuple[int, ...]) -> None:
        now_s = time.monotonic()
        if new and not self.first_token_s:
            self.first_token_s = now_s
            self.metrics.ttft.observe(now_s - self.arrival_s)
        elif new:
            self.metrics.itl.observe(now_s - self.last_token_s)
        self.last_token_s = now_s

    def move(self, decision: Decision) -> None:
        """Note that the next tokens come from other workers, to which the choice was just sent."""
        self.decision = decision
        self.has_moved = True
        self.submitted_s = time.monotonic()  # the new workers' spans count from there

    def _note_timings(self, timings: WorkTimings) -> None:
        if self.has_moved:  # the worker counts the output so far among the tokens that it needed
            num_cached = min(timings.num_cached_tokens, len(self.job.prompt_token_ids))
            timings = replace(timings, num_cached_tokens=num_cached)
        self.timings = timings

    def _summarize(self, reason: FinishReason) -> Summary:
        summary = Summary(
            reason=reason,
            route=self._travelled(),
            seed=self.job.sampling_of(self.choice).seed,
            num_output_tokens=self.num_tokens,
            submitted_s=self.submitted_s - self.arrival_s,
            first_token_s=self.first_token_s - self.arrival_s,
            total_s=time.monotonic() - self.arrival_s,
            timings=self.timings,
            stop_text=self.text.stop_text,
        )
        self._count(summary)
        return summary

    def _travelled(self) -> Route:
        """Return the last route, without a prefill worker of which nothing came."""
        route, timings = self.decision.route, self.timings
        came = bool(timings.transfers) or any(c.is_remote for c in timings.prefill_chunks)
        has_run_here = any(not c.is_remote for c in timings.prefill_chunks)
        return replace(route, prefill=None) if has_run_here and not came else route

    def _count(self, summary: Summary) -> None:
        metrics, timings = self.metrics, summary.timings
        metrics.e2e.observe(summary.total_s)
        if not self.choice:  # other choices have the same prompt
            metrics.prompt_tokens.inc(len(self.job.prompt_token_ids))
            metrics.prompt_lengths.observe(len(self.job.prompt_token_ids))
            metrics.cached_tokens.inc(timings.num_cached_tokens)
        metrics.output_lengths.observe(self.num_tokens)
        if (num_gaps := self.num_tokens - self.num_received - 1) > 0:
            decode_s = self.last_token_s - self.first_token_s
            metrics.tpot.observe(decode_s / num_gaps)
        metrics.stages.note(summary.submitted_s, timings)
