"""Dispatch of a job to its workers: admission, placement, the prompt queue, and sending.

1. `admit` checks the admission's limits, has the workers chosen, and checks the predicted wait.
   Then the request is live, and `LiveRequest.close` must follow.
2. `wait_for_turn` puts the prompt into the queue, with the tokens that its worker has to compute.
   After a wait the workers are chosen anew, and a deadline that can no longer be met ends the
   request.
3. `send` submits every choice to the decode worker.
"""

import asyncio
import time

from pdserve.errors import OverloadedError, RequestTimeoutError, UnavailableError
from router.access.tenant import Tenant
from router.admission.recent_use import RecentUse
from router.admission.wait_limit import WaitLimit, check_deadline
from router.intake.job import Job
from router.journey.forecaster import Forecaster, queue_rank
from router.journey.live_request import Arrival, LiveChoice, LiveRequest, Resources
from router.journey.placement import Placement
from router.journey.work_ids import WorkIds, choice_names
from router.journey.work_requests import make_work_requests
from router.routing.policy import Decision
from router.workers.link import WorkStream


class Dispatcher:
    """Lets requests in and sends each to its workers when its turn comes."""

    def __init__(
        self,
        resources: Resources,
        placement: Placement,
        wait_limit: WaitLimit,
        work_ids: WorkIds,
        max_unread_tokens: int,
    ) -> None:
        self._resources = resources
        self._admission = resources.admission
        self._placement = placement
        self._forecaster = Forecaster(placement, resources.queue)
        self._wait_limit = wait_limit
        self._work_ids = work_ids
        self._max_unread_tokens = max_unread_tokens
        self._recent_use = RecentUse(self._admission.tenants.weight)

    def admit(self, job: Job, timeout_s: float | None) -> LiveRequest:
        """Let a request in, or refuse it and count the refusal. `LiveRequest.close` must follow.

        Raises DuplicateRequestError, OverloadedError, UnavailableError.
        """
        arrival, num_tokens = Arrival(time.monotonic(), timeout_s), len(job.prompt_token_ids)
        with self._admission.refusing(job.key):
            self._admission.check(job.key, num_tokens)
            decision = self._choose_if_ready(job, arrival)
            if decision is not None:
                self._check_wait(job, decision, arrival)
        # `request` is made below, before anything is awaited and Cancel can come
        ticket = self._admission.admit(job.key, num_tokens, lambda: request.cancel())
        self._recent_use.add(job.tenant.name, num_tokens, arrival.at_s)
        work_id = self._work_ids.begin(str(job.key))  # admitted, so that no other run has the key
        choices = [
            LiveChoice(number, WorkStream(name, self._max_unread_tokens))
            for number, name in enumerate(choice_names(work_id, job.num_choices))
        ]
        request = LiveRequest(job, arrival, ticket, work_id, choices, self._resources, decision)
        return request

    async def wait_for_turn(self, request: LiveRequest) -> Decision:
        """Wait until the request may be sent; return the workers that it goes to.

        Raises UnavailableError, RequestCancelledError, RequestTimeoutError, OverloadedError.
        """
        job, arrival = request.job, request.arrival
        decision = request.proposed or self._placement.choose(job, arrival.at_s)
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
            decision = self._placement.choose(job, arrival.at_s)
            self._check_deadline(request, decision)
        self._placement.commit(job, decision, arrival.at_s)
        return decision

    def send(self, request: LiveRequest, decision: Decision) -> None:
        """Submit every choice. Nothing may be awaited between the choice of workers and this call.

        A worker that is drained in between would not wait for the request. Raises UnavailableError.
        """
        job, pool = request.job, self._resources.pool
        works = make_work_requests(
            job, request.work_id, decision.route, request.arrival.remaining_s
        )
        request.submitted_s = time.monotonic()
        request.workers = pool.worker_use.hold(decision.route, job.num_choices)
        link = pool.link(decision.route.decode)
        for choice, work in zip(request.choices, works, strict=True):
            link.submit(work, choice.stream)
            # the first choice computes the prompt for all
            num_tokens = 0 if choice.number else decision.num_new_tokens
            rank = decision.worker_rank(request.submitted_s)
            choice.prompt = pool.sent_prompts.add(decision.prompt_worker, num_tokens, rank)
        if request.turn is not None:
            self._resources.queue.note_sent(request.turn)

    def cancel(self, tenant: Tenant, request_id: str) -> None:
        """End a live request that the tenant may see. Raises NotFoundError."""
        self._admission.cancel(tenant, request_id)

    def _choose_if_ready(self, job: Job, arrival: Arrival) -> Decision | None:
        try:
            return self._placement.choose(job, arrival.at_s)
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
