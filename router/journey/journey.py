"""The life of a request in the router, from a job to the last delta of its answer.

1. `Dispatcher.admit` lets the job in or refuses it: Admission.check, Placement.choose,
   WaitLimit.check, and Admission.admit.
2. `Dispatcher.wait_for_turn` holds it in the PromptQueue until the workers have room for its
   prompt.
3. `Dispatcher.send` submits its choices to the decode worker. That worker pulls the KV from the
   prefill worker that the job names, or runs the prompt itself.
4. `Journeys._run_choice` reads a choice's outputs. `LiveRequest.note_output` counts their tokens.
5. `Progress.advance` drops tokens that it has seen, fails on a gap, and makes text of the rest.
6. `merge` joins the choices of a request into one stream of deltas.
7. A finish, a stop text, a failure, Cancel, the deadline, or the client's departure ends the
   request.
8. A choice whose worker is lost goes on elsewhere (`Relocation.move`). A request that another router
   ran goes on here (takeover.py).
9. `LiveRequest.close` then gives back all that it holds; workers that still compute it are told to
   stop. `RequestEnds.note` counts its end, logs one line, and has a sampled request's spans sent.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from common.messages import FinishReason
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from pdserve.errors import Reason, RequestCancelledError, RequestError, RequestTimeoutError
from router.access.tenant import Tenant
from router.admission.admission import Outcome
from router.intake.job import Job
from router.intake.tokenizer import Tokenizer
from router.journey.dispatch import Dispatcher
from router.journey.live_request import LiveChoice, LiveRequest
from router.journey.live_requests import LiveRequests
from router.journey.merge import merge
from router.journey.metrics import RouterMetrics
from router.journey.output_text import OutputText
from router.journey.placement import Placement
from router.journey.progress import Delta, Progress, Summary
from router.journey.relocation import Relocation
from router.journey.request_ends import RequestEnds
from router.journey.takeover import note_takeover, rebuild_texts
from router.routing.policy import Decision


class Journeys:
    """Runs requests to their end. Holds what they share, and of their state only who is live."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        placement: Placement,
        relocation: Relocation,
        tokenizer: Tokenizer,
        metrics: RouterMetrics,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._dispatcher = dispatcher
        self._relocation = relocation
        self._placement = placement
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._tracing = tracing
        self._ends = RequestEnds(metrics, tracing)
        self.live = LiveRequests()

    async def run(self, job: Job, timeout_s: float | None) -> AsyncGenerator[Delta]:
        """Yield the request's deltas.

        Raises RequestError; closing the iterator cancels the request.
        """
        request = self._dispatcher.admit(job, timeout_s)
        request.trace = self._tracing.begin(job.caller)
        self.live.add(request)
        # unless it is seen to end in another way
        request.end_with(Outcome.CANCELLED, Reason.CANCELLED)
        ended = list[Summary]()  # choices
        try:
            texts = await rebuild_texts(request, self._tokenizer.decoder(job.shown_tokens))
            note_takeover(request, self._metrics)
            decision = await self._dispatcher.wait_for_turn(request)
            self._dispatcher.send(request, decision)
            choices = zip(request.choices, texts, strict=True)
            runs = [self._run_choice(request, one, text, decision) for one, text in choices]
            async with aclosing(merge(runs)) as deltas:
                async for delta in deltas:
                    if delta.summary is not None:
                        self._placement.note_finished(job.key, delta.choice, delta.summary)
                        ended.append(delta.summary)
                        if len(ended) == len(runs):
                            request.end_with(Outcome.COMPLETED, _reason_of(ended))
                    yield delta
        except (RequestCancelledError, RequestTimeoutError) as error:
            request.end_with(Outcome.CANCELLED, error.reason)
            raise
        except Exception as error:
            reason = error.reason if isinstance(error, RequestError) else Reason.INTERNAL
            request.end_with(Outcome.FAILED, reason)
            raise
        finally:
            request.close()
            self.live.remove(request)
            self._ends.note(request, ended)

    def cancel(self, tenant: Tenant, request_id: str) -> None:
        """End a request that runs and that the tenant may see. Raises NotFoundError."""
        self._dispatcher.cancel(tenant, request_id)

    async def _run_choice(
        self, request: LiveRequest, choice: LiveChoice, text: OutputText, decision: Decision
    ) -> AsyncGenerator[Delta]:
        progress = self._progress(request, choice, text, decision)
        try:
            while True:
                output = await choice.stream.next()
                if output.failure:
                    progress.move(await self._relocation.move(request, choice, output.failure))
                    continue
                delta = progress.advance(output)
                if output.timings is not None:
                    choice.attempts[-1].timings = output.timings
                request.note_output(choice, delta.token_ids)
                yield delta
                if delta.summary is not None:
                    choice.finish_reason = delta.summary.reason
                    return
        finally:
            request.end_choice(choice)

    def _progress(
        self, request: LiveRequest, choice: LiveChoice, text: OutputText, decision: Decision
    ) -> Progress:
        return Progress(
            request.job,
            choice.number,
            decision,
            request.arrival.at_s,
            request.submitted_s,
            text,
            self._metrics,
            len(choice.token_ids),
        )


def _reason_of(ended: list[Summary]) -> FinishReason:
    """Return why a request ended: LENGTH if one of its choices was cut."""
    is_cut = any(choice.reason is FinishReason.LENGTH for choice in ended)
    return FinishReason.LENGTH if is_cut else FinishReason.STOP
