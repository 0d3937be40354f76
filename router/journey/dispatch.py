"""Dispatch of a job to its workers: admission, placement, the prompt queue, and sending.

1. `admit` checks the admission's limits, has the workers chosen, and checks the predicted wait.
   Then the request is live, and `LiveRequest.close` must follow.
2. `wait_for_turn` puts the prompt into the queue, with the tokens that its worker has to compute.
   After a wait the workers are chosen anew, and a deadline that can no longer be met ends the
   request.
3. `send` submits every choice to the decode worker.
4. A choice whose worker is lost moves (relocation.py): `begin_attempt`, `place` and `send_choice`.
   It enters no queue again, and no limit on waiting holds for it.
"""

import asyncio
import time
from collections.abc import Sequence

from pdserve.errors import OverloadedError, RequestTimeoutError, UnavailableError
from router.access.tenant import Tenant
from router.admission.recent_use import RecentUse
from router.admission.wait_limit import WaitLimit, check_deadline
from router.intake.job import Job
from router.journey.attempt import Attempt
from router.journey.forecaster import Forecaster, queue_rank
from router.journey.live_request import Arrival, LiveChoice, LiveRequest, Resources
from router.journey.placement import Placement
from router.journey.probation import Allows, anywhere
from router.journey.work_ids import WorkIds, attempt_name, choice_names
from router.journey.work_requests import make_work_request
from router.routing.policy import Decision
from router.workers.outage import Outage
from router.workers.work_stream import WorkStream


class Dispatcher:
    """Lets requests in and sends each to its workers when its turn comes."""

    def __init__(
        self,
        resources: Resources,
        placement: Placement,
        wait_limit: WaitLimit,
        work_ids: WorkIds,
        outage: Outage,
        max_unread_tokens: int,
    ) -> None:
        self._resources = resources
        self._admission = resources.admission
        self._placement = placement
        self._forecaster = Forecaster(placement, resources.queue)
        self._wait_limit = wait_limit
        self._work_ids = work_ids
        self._outage = outage
        self._max_unread_tokens = max_unread_tokens
        self._recent_use = RecentUse(self._admission.tenants.weight)

    def admit(self, job: Job, timeout_s: float | None) -> LiveRequest:
        """Let a request in, or refuse it and count the refusal. `LiveRequest.close` must follow.

        Raises DuplicateRequestError, OverloadedError, UnavailableError.
        """
        arrival, num_tokens = Arrival(time.monotonic(), timeout_s), job.num_given_tokens
        with self._admission.refusing(job.key):
            self._admission.check(job.key, num_tokens)
            decision = self._choose_if_ready(job, arrival)
            if decision is not None:
                self._check_wait(job, decision, arrival)
        # `request` is made below, before anything is awaited and Cancel can come
        ticket = self._admission.admit(job.key, num_tokens, lambda error: request.fail(error))
        self._recent_use.add(job.tenant.name, num_tokens, arrival.at_s)
        work_id = self._work_ids.begin(str(job.key))  # admitted, so that no other run has the key
        choices = self._make_choices(job, work_id)
        request = LiveRequest(job, arrival, ticket, work_id, choices, self._resources, decision)
        return request

    async def wait_for_turn(self, request: LiveRequest) -> Decision:
        """Wait until the request may be sent; return the workers that it goes to.

        Raises UnavailableError, RequestCancelledError, RequestTimeoutError, OverloadedError.
        """
        job, arrival = request.job, request.arrival
        received = job.received.longest
        decision = request.proposed or await self.place(request, received)
        self._placement.note_arrival(arrival.at_s)
        num_tokens = max(decision.num_new_tokens, 1)
        rank = queue_rank(job, decision, arrival.at_s)
        turn = self._resources.queue.push(job.tenant.name, num_tokens, rank, decision.entrant)
        request.turn = turn
        if not turn.granted.done():
            self._placement.propose(job, decision, arrival.at_s)
            try:
                async with asyncio.timeout(arrival.remaining_s):
                    await turn.granted
            except TimeoutError:
                raise RequestTimeoutError("the deadline passed in the queue") from None
            decision = await self.place(request, received)
            self._check_deadline(request, decision)
        self._placement.commit(job, decision, arrival.at_s)
        return decision

    async def place(
        self, request: LiveRequest, prior_token_ids: Sequence[int], allows: Allows = anywhere
    ) -> Decision:
        """Choose workers; with none ready, wait while an outage may last. Changes nothing.

        While it is not allowed at those that are ready, it waits until the client's deadline.
        Raises UnavailableError, RequestCancelledError, RequestTimeoutError.
        """
        job, arrival = request.job, request.arrival
        while True:
            try:
                return self._placement.choose(job, arrival.at_s, prior_token_ids, allows)
            except UnavailableError:
                # a look wakes all that wait: those that wait for a place would wake each other for ever
                if allows is anywhere:
                    self._outage.look()
                await self._wait_for_worker(request, self._outage.left_s())

    def send(self, request: LiveRequest, decision: Decision) -> None:
        """Submit every choice. Nothing may be awaited between the choice of workers and this call.

        A worker that is drained in between would not wait for the request. Raises UnavailableError.
        """
        request.submitted_s = time.monotonic()
        workers = self._resources.pool.worker_use.hold(
            decision.route, [choice.number for choice in request.choices], request.lose_prefill
        )
        for choice in request.choices:
            choice.workers = workers
        for place, choice in enumerate(request.choices):
            # the first choice computes the prompt for all
            num_tokens = len(choice.token_ids) if place else decision.num_new_tokens
            self._submit(request, choice, decision, num_tokens)
        if request.turn is not None:
            self._resources.queue.note_sent(request.turn)

    def begin_attempt(self, request: LiveRequest, choice: LiveChoice) -> None:
        """Give back what a choice holds at its lost worker, and give it a new stream."""
        name = attempt_name(choice.name, choice.attempt + 1)
        stream = WorkStream(name, self._max_unread_tokens)
        choice.begin_attempt(stream, self._resources.pool.sent_prompts)
        if request.failure is not None:
            request.fail(request.failure)

    def send_choice(self, request: LiveRequest, choice: LiveChoice, decision: Decision) -> None:
        """Submit one choice with its output so far; otherwise as `send`. Raises UnavailableError."""
        workers = self._resources.pool.worker_use.hold(
            decision.route, (choice.number,), request.lose_prefill
        )
        choice.workers = workers
        try:
            self._submit(request, choice, decision, decision.num_new_tokens)
        except UnavailableError:
            workers.release(choice.number)
            raise
        self._placement.commit(request.job, decision, request.arrival.at_s)

    def cancel(self, tenant: Tenant, request_id: str) -> None:
        """End a live request that the tenant may see. Raises NotFoundError."""
        self._admission.cancel(tenant, request_id)

    def _make_choices(self, job: Job, work_id: str) -> list[LiveChoice]:
        """Return the choices that are to run, behind the output that the client has of each."""
        return [
            LiveChoice(
                number,
                name,
                WorkStream(name, self._max_unread_tokens),
                token_ids=[*job.received.of(number)],
            )
            for number, name in enumerate(choice_names(work_id, job.num_choices))
            if number not in job.received.ended
        ]

    def _submit(
        self, request: LiveRequest, choice: LiveChoice, decision: Decision, num_tokens: int
    ) -> None:
        """Send a choice to its decode worker; `num_tokens` of its prompt are to run."""
        job, pool = request.job, self._resources.pool
        request.route = decision.route
        now_s = time.monotonic()
        remaining_s = request.arrival.remaining_s
        work = make_work_request(job, request.work_id, choice, decision.route, remaining_s)
        pool.link(decision.route.decode).submit(work, choice.stream)
        choice.attempts.append(Attempt(decision.route, now_s))
        rank = decision.worker_rank(now_s)
        choice.prompt = pool.sent_prompts.add(decision.prompt_worker, num_tokens, rank)

    async def _wait_for_worker(self, request: LiveRequest, timeout_s: float) -> None:
        """Return when a worker is ready, or none was for so long: the caller looks again."""
        request.check_not_failed()
        ended, remaining_s = self._outage.end(), request.arrival.remaining_s
        request.pauses.add(ended)
        ended.add_done_callback(request.pauses.discard)
        is_last = remaining_s is not None and remaining_s <= timeout_s
        try:
            async with asyncio.timeout(remaining_s if is_last else timeout_s):
                await ended
        except TimeoutError:
            if is_last:
                raise RequestTimeoutError("the deadline passed while no worker was ready") from None

    def _choose_if_ready(self, job: Job, arrival: Arrival) -> Decision | None:
        try:
            return self._placement.choose(job, arrival.at_s, job.received.longest)
        except UnavailableError:
            return None  # `wait_for_turn` tries again and raises

    def _check_wait(self, job: Job, decision: Decision, arrival: Arrival) -> None:
        forecast = self._forecaster.on_arrival(job, decision, arrival.at_s)
        is_over_share = self._recent_use.is_over(job.tenant.name, arrival.at_s)
        self._wait_limit.check(
            forecast, arrival.timeout_s, arrival.at_s, is_over_share=is_over_share
        )

    def _check_deadline(self, request: LiveRequest, decision: Decision) -> None:
        """Raise OverloadedError when the answer would come after the client's deadline."""
        if (remaining_s := request.arrival.remaining_s) is not None:
            try:
                check_deadline(self._forecaster.at_turn(request.job, decision), remaining_s)
            except OverloadedError as error:
                self._admission.set_retry_after(request.job.key, error)
                raise
