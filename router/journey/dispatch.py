"""From a request's arrival to the moment at which it leaves for its workers.

1. `admit`: admission lets it in, unless it is predicted to wait longer than it may, or to end after its
   deadline (wait_limit.py).
2. `wait_for_turn`: the policy says where it would go and how much of its prompt would run there; so much it
   waits for in the queue. Whoever had to wait is routed anew, since the workers' state has changed, and
   refused after all when its deadline can no longer be met.
3. `note_sent`: its worker's load counts the prompt.
4. `note_tokens`: the prompt has run; the queue lets others pass.
5. `close`, always: its place in the queue and in the account is given back.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.profile import WorkerProfile, count_pairs
from pdserve.errors import (
    OverloadedError,
    RequestCancelledError,
    RequestTimeoutError,
    UnavailableError,
)
from router.admission.admission import Admission, Ticket
from router.admission.prompt_queue import PromptQueue, Turn
from router.admission.recent_use import RecentUse
from router.admission.wait_limit import Forecast, WaitLimit, check_deadline
from router.intake.job import Job
from router.journey.placement import Placement
from router.routing.policy import Decision

# of prompt tokens on their way to each worker: enough to keep it busy and to choose among
WINDOW_STEPS = 4


@dataclass(slots=True)
class QueuedRequest:
    """One request on its way out."""

    job: Job
    arrival_s: float
    timeout_s: float | None
    ticket: Ticket
    decision: Decision | None = None
    turn: Turn | None = None

    @property
    def remaining_s(self) -> float | None:
        """Until the client's deadline."""
        if self.timeout_s is None:
            return None
        return max(self.arrival_s + self.timeout_s - time.monotonic(), 0.0)

    def refuse(self) -> None:
        """Cancel was called; who waits for a turn is told."""
        if self.turn is not None and not self.turn.granted.done():
            self.turn.granted.set_exception(RequestCancelledError("cancelled by Cancel"))


class Dispatcher:
    """Lets requests in and sends them off in turn."""

    def __init__(
        self,
        admission: Admission,
        placement: Placement,
        queue: PromptQueue,
        wait_limit: WaitLimit,
    ) -> None:
        self._admission = admission
        self._placement = placement
        self._queue = queue
        self._wait_limit = wait_limit
        self._recent_use = RecentUse(admission.tenants.weight)

    def admit(self, job: Job, timeout_s: float | None, cancel: Callable[[], None]) -> QueuedRequest:
        """Let a request in; `close` must follow. Raises what `Admission.enter` does."""
        arrival_s, decisions = time.monotonic(), list[Decision]()

        def forecast() -> None:
            decisions.extend(self._check_waiting(job, arrival_s, timeout_s))

        def cancel_all() -> None:
            request.refuse()
            cancel()

        num_tokens = len(job.prompt_token_ids)
        ticket = self._admission.enter(job.key, num_tokens, cancel_all, forecast)
        self._recent_use.add(job.tenant.name, num_tokens, arrival_s)
        decision = decisions[0] if decisions else None
        request = QueuedRequest(job, arrival_s, timeout_s, ticket, decision)
        return request

    async def wait_for_turn(self, request: QueuedRequest) -> Decision:
        """Wait for the request's turn; the workers that it goes to.

        Raises UnavailableError, RequestCancelledError, RequestTimeoutError, OverloadedError.
        """
        job, arrival_s = request.job, request.arrival_s
        decision = request.decision or self._placement.choose(job, arrival_s)
        self._placement.note_arrival(arrival_s)
        num_tokens = max(decision.num_new_tokens, 1)
        turn = request.turn = self._queue.push(job.tenant.name, num_tokens, job.priority)
        if not turn.granted.done():
            self._placement.propose(job, decision, arrival_s)
            try:
                async with asyncio.timeout(request.remaining_s):
                    await turn.granted
            except TimeoutError:
                raise RequestTimeoutError("the deadline passed in the queue") from None
            decision = self._placement.choose(job, arrival_s)
            self._check_deadline(request, decision)
        self._placement.commit(job, decision, arrival_s)
        return decision

    def note_sent(self, request: QueuedRequest) -> None:
        """The prompt is among those sent to its worker. Safe to repeat."""
        if request.turn is not None:
            self._queue.note_sent(request.turn)

    def note_tokens(self, request: QueuedRequest, number: int) -> None:
        """The request has so many tokens more: its prompt has run."""
        self._admission.note_tokens(request.ticket, number)
        self._give_back(request)

    def close(self, request: QueuedRequest) -> None:
        """The request has ended, in whatever way."""
        self._give_back(request)
        self._admission.leave(request.ticket)

    def _give_back(self, request: QueuedRequest) -> None:
        if request.turn is not None:
            self._queue.finish(request.turn)
            request.turn = None

    def _check_waiting(self, job: Job, arrival_s: float, timeout_s: float | None) -> list[Decision]:
        try:
            decision = self._placement.choose(job, arrival_s)
        except UnavailableError:
            return []  # said when its turn comes
        is_over_share = self._recent_use.is_over(job.tenant.name, arrival_s)
        forecast = self._forecast(job, decision)
        self._wait_limit.check(forecast, timeout_s, arrival_s, is_over_share=is_over_share)
        return [decision]

    def _check_deadline(self, request: QueuedRequest, decision: Decision) -> None:
        """Raise OverloadedError when who has waited would be served in vain."""
        if (remaining_s := request.remaining_s) is not None:
            chosen = decision.chosen
            answer_s = self._placement.answer_s(request.job, decision)
            forecast = Forecast(chosen.queue_s, chosen.prefill_s, answer_s, num_ahead=1)
            try:
                check_deadline(forecast, remaining_s)
            except OverloadedError as error:
                self._admission.set_retry_after(request.job.key, error)
                raise

    def _forecast(self, job: Job, decision: Decision) -> Forecast:
        """What a request would meet that comes now.

        A short prompt overtakes longer ones at a prefill worker. Counted as if it did not: else short ones
        would be let in without end, and those that they overtake, which were let in before, would wait too
        long.
        """
        workers = [*self._placement.prompt_workers().values()]
        here_s = seconds_for(self._queue.tokens_before(job.tenant.name), workers)
        there = self._placement.sent_prompts(decision.prompt_worker)
        there_s = max(decision.chosen.queue_s, seconds_for(there.num_tokens, workers[:1]))
        return Forecast(
            wait_s=here_s + there_s,
            prefill_s=decision.chosen.prefill_s,
            answer_s=self._placement.answer_s(job, decision),
            num_ahead=self._queue.num_waiting + there.num_prompts,
        )


def room_tokens(workers: Mapping[str, WorkerProfile], sent: Callable[[str], int]) -> int:
    """Prompt tokens that the workers which run prompts want besides those sent to them.

    A worker with more than its window, or one that does nothing, takes no room from another.
    """
    windows = {name: WINDOW_STEPS * profile.max_batch_tokens for name, profile in workers.items()}
    return sum(max(window - sent(name), 0) for name, window in windows.items())


def seconds_for(num_tokens: int, workers: list[WorkerProfile]) -> float:
    """Until the workers have run so many prompt tokens, in prompts of about a step."""
    if not workers or not num_tokens:
        return 0.0
    profile, share = workers[0], -(-num_tokens // len(workers))
    num_pairs = share / profile.max_batch_tokens * count_pairs(profile.max_batch_tokens)
    return profile.prompt_s(share, num_pairs)
