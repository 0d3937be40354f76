"""Relocation of a choice whose worker is lost: prompt and output so far run elsewhere.

1. `Journeys._run_choice` reads a failure with WORKER_LOST. The worker died, hangs, left, or its
   connection is gone.
2. `move` counts a death, unless others are blamed for it. A request with more than `max_deaths` may
   be their cause: it ends with POISON. One that met fewer is on probation (probation.py).
3. The choice gives back what its last attempt held, and gets a stream of a new name. So nothing that
   the old worker still sends can reach it.
4. `Dispatcher.place` chooses workers for prompt and output as for any prompt. With nobody ready it
   waits, as long as an outage may last and the client's deadline allows.
5. The new worker rebuilds sampler, grammar and penalties from the tokens, and goes on at the next
   index. Random numbers depend on seed and position alone, so the text is the one of an undisturbed
   run (docs/use/sampling.md says where).
"""

from common.messages import WorkFailure
from common.rpc.status import error_from_reason
from common.telemetry.logs import get_logger
from common.telemetry.tracing.span import trace_field
from pdserve.errors import AbortedError, Reason, UnavailableError
from router.journey.dispatch import Dispatcher
from router.journey.live_request import LiveChoice, LiveRequest
from router.journey.metrics import RouterMetrics
from router.journey.probation import Probation
from router.routing.policy import Decision

_log = get_logger()


class Relocation:
    """Moves choices to other workers. Holds no state of any, but who is on probation where."""

    def __init__(self, dispatcher: Dispatcher, metrics: RouterMetrics, max_deaths: int) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._max_deaths = max_deaths
        self._probation = Probation(max_deaths)

    async def move(
        self, request: LiveRequest, choice: LiveChoice, failure: WorkFailure
    ) -> Decision:
        """Have a choice go on elsewhere; return the workers that have it now.

        Raises the failure's error if that is not for lost workers, AbortedError after too many
        deaths, UnavailableError when nobody can take it, RequestTimeoutError.
        """
        choice.end_attempt(failure.reason)
        self._check(choice, failure)
        self._dispatcher.begin_attempt(request, choice)
        while True:
            decision = await self._place(request, choice, failure)
            try:
                self._dispatcher.send_choice(request, choice, decision)
            except UnavailableError:  # lost just now; the next choice is another one
                continue
            choice.begin_probation(self._probation.begin(choice.num_deaths, decision.route))
            self._note(request, choice, failure, decision)
            return decision

    async def _place(
        self, request: LiveRequest, choice: LiveChoice, failure: WorkFailure
    ) -> Decision:
        allows = self._probation.allows(choice.num_deaths)
        try:
            return await self._dispatcher.place(request, choice.token_ids, allows)
        except UnavailableError as error:
            if error.reason is not Reason.NO_WORKER:  # the router shuts down
                raise
            message = f"{failure.message}, and {error.message}"
            raise UnavailableError(message, reason=Reason.WORKER_LOST) from error

    def _check(self, choice: LiveChoice, failure: WorkFailure) -> None:
        if failure.reason is not Reason.WORKER_LOST:
            raise error_from_reason(failure.reason, failure.message)
        choice.num_deaths += failure.is_death and not failure.is_blamed_elsewhere
        if choice.num_deaths > self._max_deaths:
            message = f"{choice.num_deaths} workers died while they ran this request"
            raise AbortedError(message, reason=Reason.POISON)

    def _note(
        self, request: LiveRequest, choice: LiveChoice, failure: WorkFailure, decision: Decision
    ) -> None:
        self._metrics.migrations.labels("death" if failure.is_death else "loss").inc()
        _log.info(
            "request_moved",
            request_id=request.job.request_id,
            choice=choice.number,
            cause=failure.message,
            worker=decision.route.decode,
            num_tokens=len(choice.token_ids),
            **trace_field(request.trace),
        )
