"""One request's way through the router.

1. `run` is entered with a validated Job; admission lets it in or sheds it, and it waits for its turn.
2. The policy picks a (prefill, decode) pair, or a decode worker that does both (dispatch.py).
3. The job goes down the decode worker's stream; decode pulls the KV from the prefill worker it names.
4. Tokens come back with their index: repeats are dropped, a gap is a fault; text is made of them.
   Several choices travel side by side to the same pair and are read as one stream (merge.py).
5. It ends with a finish, a stop text, a failure, Cancel, the deadline, or the client's departure.
6. Whatever the end, `finally` releases the stream (which cancels what still runs) and leaves admission.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import repeat

from common.messages import WorkRequest
from common.rpc.status import error_from_reason
from pdserve.errors import RequestCancelledError, RequestTimeoutError
from router.admission.admission import Outcome
from router.intake.job import Job
from router.intake.tokenizer import Tokenizer
from router.journey.dispatch import Dispatcher, QueuedRequest
from router.journey.merge import merge
from router.journey.metrics import RouterMetrics
from router.journey.output_text import OutputText
from router.journey.placement import Placement
from router.journey.progress import Delta, Progress
from router.journey.work_ids import WorkIds, choice_names
from router.routing.policy import Decision
from router.routing.prediction import Route
from router.workers.link import WorkStream
from router.workers.pool import WorkerPool
from router.workers.worker_use import HeldWorkers


class Journeys:
    """Runs requests; holds what they share and no state of any of them."""

    def __init__(
        self,
        work_ids: WorkIds,
        pool: WorkerPool,
        placement: Placement,
        dispatcher: Dispatcher,
        tokenizer: Tokenizer,
        metrics: RouterMetrics,
        max_unread_tokens: int,
    ) -> None:
        self._work_ids = work_ids
        self._pool = pool
        self._placement = placement
        self._dispatcher = dispatcher
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._max_unread_tokens = max_unread_tokens

    async def run(self, job: Job, timeout_s: float | None) -> AsyncGenerator[Delta]:
        """Yield the request's deltas. Raises RequestError; closing the iterator cancels the request."""
        streams: list[WorkStream] = []
        request = self._dispatcher.admit(job, timeout_s, lambda: _cancel(streams))
        work_id = self._work_ids.begin(str(job.key))  # let in, so that no other run has the key
        names = choice_names(work_id, job.num_choices)
        streams += [WorkStream(name, self._max_unread_tokens) for name in names]
        ticket = request.ticket
        ticket.outcome = Outcome.CANCELLED  # unless it is seen to end in another way
        try:
            decision = await self._dispatcher.wait_for_turn(request)
            works = _work_requests(request, work_id, decision.route, names)
            progress = [self._progress(request, choice, decision) for choice in range(len(works))]
            num_open = len(works)
            # nothing is awaited since the choice: its workers are not drained in between
            with self._pool.worker_use.hold(decision.route, len(works)) as held:
                args = (works, progress, streams, repeat(request), repeat(held))
                async with aclosing(merge([*map(self._run_choice, *args)])) as deltas:
                    async for delta in deltas:
                        if delta.summary is not None:
                            self._placement.note_output_length(delta.summary.num_output_tokens)
                            num_open -= 1
                        if not num_open:
                            ticket.outcome = Outcome.COMPLETED
                        yield delta
        except (RequestCancelledError, RequestTimeoutError):
            raise
        except Exception:
            ticket.outcome = Outcome.FAILED
            raise
        finally:
            self._dispatcher.close(request)

    async def _run_choice(
        self,
        work: WorkRequest,
        progress: Progress,
        stream: WorkStream,
        request: QueuedRequest,
        held: HeldWorkers,
    ) -> AsyncGenerator[Delta]:
        link = self._pool.link(progress.decision.route.decode)
        link.submit(work, stream)
        # the first choice computes the prompt for all
        decision, sent = progress.decision, self._pool.sent_prompts
        num_tokens = 0 if progress.choice else decision.num_new_tokens
        prompt = sent.add(decision.prompt_worker, num_tokens, work.priority)
        self._dispatcher.note_sent(request)
        try:
            while True:
                output = await stream.next()
                if output.failure:
                    raise error_from_reason(output.failure.reason, output.failure.message)
                sent.discard(prompt)
                held.note_token(progress.choice)
                self._dispatcher.note_tokens(request, len(output.token_ids))
                delta = progress.advance(output)
                yield delta
                if delta.summary is not None:
                    return
        finally:
            sent.discard(prompt)
            link.release(stream)

    def _progress(self, request: QueuedRequest, choice: int, decision: Decision) -> Progress:
        job, now_s = request.job, time.monotonic()
        text = OutputText(self._tokenizer.decode, job)
        return Progress(job, choice, decision, request.arrival_s, now_s, text, self._metrics)


def _work_requests(
    request: QueuedRequest, work_id: str, route: Route, names: list[str]
) -> list[WorkRequest]:
    job, timeout_s = request.job, request.remaining_s
    group = work_id if job.num_choices > 1 else ""
    return [
        _to_work(name, group, job, choice, route, timeout_s) for choice, name in enumerate(names)
    ]


def _to_work(
    work_id: str, group: str, job: Job, choice: int, route: Route, timeout_s: float | None
) -> WorkRequest:
    return WorkRequest(
        request_id=work_id,
        attempt=1,
        prompt_token_ids=job.prompt_token_ids,
        sampling=job.sampling_of(choice),
        prefill_worker=route.prefill,
        timeout_s=timeout_s,
        cache_salt=job.salt,
        group=group,
        priority=job.worker_priority,
    )


def _cancel(streams: list[WorkStream]) -> None:
    for stream in streams:
        stream.cancel("cancelled by Cancel")
