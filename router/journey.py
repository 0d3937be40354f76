"""One request's way through the router.

1. `run` is entered with a validated Job; admission lets it in or sheds it.
2. The policy picks a (prefill, decode) pair; without a prefill worker the decode worker does both.
3. The job goes down the decode worker's stream; decode pulls the KV from the prefill worker it names.
4. Tokens come back with their index: repeats are dropped, a gap is a fault; text is made of them.
5. It ends with a finish, a stop text, a failure, Cancel, the deadline, or the client's departure.
6. Whatever the end, `finally` releases the stream (which cancels what still runs) and leaves admission.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from common.request import (
    FinishReason,
    Role,
    SequenceOutput,
    TokenLogprobs,
    WorkRequest,
    WorkTimings,
)
from common.rpc.status import error_from_reason
from pdserve.errors import (
    InternalError,
    Reason,
    RequestCancelledError,
    RequestTimeoutError,
    UnavailableError,
)
from router.admission import Admission, Outcome, Ticket
from router.link import WorkStream
from router.metrics import RouterMetrics
from router.output_text import OutputText
from router.policy import Route, RoutingPolicy
from router.pool import WorkerPool
from router.tokenizer import Tokenizer
from router.validation import Job


@dataclass(frozen=True, slots=True)
class Summary:
    """How a request ended, and where its time went (seconds since arrival, or durations)."""

    reason: FinishReason
    route: Route
    num_output_tokens: int
    submitted_s: float
    first_token_s: float
    total_s: float
    timings: WorkTimings


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens and the text that became certain; the last one carries the summary."""

    index: int
    token_ids: tuple[int, ...]
    text: str
    summary: Summary | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(slots=True)
class _Progress:
    """What one journey has sent so far."""

    arrival_s: float
    submitted_s: float
    text: OutputText
    num_tokens: int = 0
    first_token_s: float = 0.0
    last_token_s: float = 0.0


class Journeys:
    """Runs requests; holds what they share and no state of any of them."""

    def __init__(
        self,
        router_id: str,
        pool: WorkerPool,
        policy: RoutingPolicy,
        admission: Admission,
        tokenizer: Tokenizer,
        metrics: RouterMetrics,
    ) -> None:
        self._router_id = router_id
        self._pool = pool
        self._policy = policy
        self._admission = admission
        self._tokenizer = tokenizer
        self._metrics = metrics

    async def run(self, job: Job, timeout_s: float | None) -> AsyncGenerator[Delta]:
        """Yield the request's deltas. Raises RequestError; closing the iterator cancels the request."""
        arrival_s = time.monotonic()
        # worker-side ids must be unique over all routers that share the workers
        stream = WorkStream(f"{self._router_id}/{job.request_id}")
        ticket = self._admission.enter(
            job.request_id, lambda: stream.fail(Reason.CANCELLED, "cancelled by Cancel")
        )
        ticket.outcome = Outcome.CANCELLED  # unless it is seen to end in another way
        try:
            travel = self._travel(job, stream, ticket, arrival_s, timeout_s)
            async with aclosing(travel):
                async for delta in travel:
                    yield delta
        except (RequestCancelledError, RequestTimeoutError):
            raise
        except Exception:
            ticket.outcome = Outcome.FAILED
            raise
        finally:
            self._admission.leave(ticket)

    async def _travel(
        self,
        job: Job,
        stream: WorkStream,
        ticket: Ticket,
        arrival_s: float,
        timeout_s: float | None,
    ) -> AsyncGenerator[Delta]:
        route = self._choose(len(job.prompt_token_ids))
        link = self._pool.link(route.decode)
        work = _to_work(stream.request_id, job, route, timeout_s)
        progress = _Progress(
            arrival_s,
            time.monotonic(),
            OutputText(self._tokenizer.decode, job),
        )
        link.submit(work, stream)
        self._pool.assign(route.prefill, len(job.prompt_token_ids))
        try:
            while True:
                output = await stream.next()
                if output.failure:
                    raise error_from_reason(output.failure.reason, output.failure.message)
                if not ticket.has_token:
                    self._pool.assign(route.prefill, -len(job.prompt_token_ids))
                    self._admission.note_token(ticket)
                delta = self._advance(job, route, output, progress)
                if delta.summary is not None:
                    ticket.outcome = Outcome.COMPLETED
                yield delta
                if delta.summary is not None:
                    return
        finally:
            if not ticket.has_token:
                self._pool.assign(route.prefill, -len(job.prompt_token_ids))
            link.release(stream)

    def _choose(self, num_prompt_tokens: int) -> Route:
        route = self._policy.choose(
            self._pool.candidates(Role.PREFILL),
            self._pool.candidates(Role.DECODE),
            num_prompt_tokens,
        )
        if route is None:
            raise UnavailableError("no decode worker is ready")
        return route

    def _advance(
        self, job: Job, route: Route, output: SequenceOutput, progress: _Progress
    ) -> Delta:
        """Account for one output; exactly once, in order."""
        index = progress.num_tokens
        if output.index > index:
            raise InternalError(f"token {index} is missing: {output.index} came next")
        new = output.token_ids[index - output.index :]
        scores = output.logprobs[index - output.index :]
        prompt_scores = output.prompt_logprobs if not index else ()
        self._note_times(new, progress)
        progress.num_tokens += len(new)
        text = progress.text.push(new, output.finish_reason)
        reason = FinishReason.STOP if progress.text.is_stopped else output.finish_reason
        summary = self._summarize(job, route, reason, output, progress) if reason else None
        return Delta(index, new, text, summary, scores, prompt_scores)

    def _note_times(self, new: tuple[int, ...], progress: _Progress) -> None:
        now_s = time.monotonic()
        if new and not progress.num_tokens:
            progress.first_token_s = now_s
            self._metrics.ttft.observe(now_s - progress.arrival_s)
        elif new:
            self._metrics.itl.observe(now_s - progress.last_token_s)
        progress.last_token_s = now_s

    def _summarize(
        self,
        job: Job,
        route: Route,
        reason: FinishReason,
        output: SequenceOutput,
        progress: _Progress,
    ) -> Summary:
        summary = Summary(
            reason=reason,
            route=route,
            num_output_tokens=progress.num_tokens,
            submitted_s=progress.submitted_s - progress.arrival_s,
            first_token_s=progress.first_token_s - progress.arrival_s,
            total_s=time.monotonic() - progress.arrival_s,
            timings=output.timings or WorkTimings(),
        )
        metrics = self._metrics
        metrics.e2e.observe(summary.total_s)
        metrics.prompt_tokens.inc(len(job.prompt_token_ids))
        metrics.output_tokens.inc(progress.num_tokens)
        metrics.cached_tokens.inc(summary.timings.num_cached_tokens)
        metrics.kv_bytes.inc(summary.timings.kv_bytes)
        metrics.queue_time.observe(summary.submitted_s + summary.timings.queue_s)
        if summary.timings.handoff_s:
            metrics.handoff.observe(summary.timings.handoff_s)
        return summary


def _to_work(work_id: str, job: Job, route: Route, timeout_s: float | None) -> WorkRequest:
    return WorkRequest(
        request_id=work_id,
        attempt=1,
        prompt_token_ids=job.prompt_token_ids,
        sampling=job.sampling,
        prefill_worker=route.prefill,
        timeout_s=timeout_s,
        cache_salt=job.cache_salt,
    )
