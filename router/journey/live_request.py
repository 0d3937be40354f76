"""Live requests: an admitted request, and everything that it holds until its end.

1. `Dispatcher.admit` makes it with a ticket of the admission and a stream for each choice.
2. `Dispatcher.wait_for_turn` adds its turn in the prompt queue.
3. `Dispatcher.send` adds the workers that it needs, and for each choice a prompt sent to a worker.
4. `first_token` gives back a choice's prompt and the turn, and with the last choice the prefill
   worker.
5. `LiveChoice.begin_attempt` gives back what a choice holds when it moves to other workers. One
   whose worker died is on probation there (probation.py).
6. `end_choice` ends a choice's stream: a worker that still computes it is told to stop.
7. `close` gives back whatever is still held, at any point. Safe to repeat.
"""

import asyncio
import time
from dataclasses import dataclass, field

from common.messages import FinishReason, WorkFailure
from common.telemetry.tracing.span import Trace
from pdserve.errors import Reason, RequestError
from router.admission.admission import Admission, Outcome, Ticket
from router.admission.prompt_queue import PromptQueue, Turn
from router.intake.job import Job
from router.journey.attempt import Attempt
from router.journey.probation import ProbationPlace
from router.routing.policy import Decision
from router.routing.prediction import Route
from router.workers.pool import WorkerPool
from router.workers.sent_prompts import SentPrompt, SentPrompts
from router.workers.work_stream import WorkStream
from router.workers.worker_use import HeldWorkers


@dataclass(frozen=True, slots=True)
class Resources:
    """The owners of what requests hold."""

    admission: Admission
    queue: PromptQueue
    pool: WorkerPool


@dataclass(frozen=True, slots=True)
class Arrival:
    """Arrival of a request, on the monotonic clock, and the seconds that its client gives it."""

    at_s: float
    timeout_s: float | None

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the client's deadline, 0 after it; None without one."""
        if self.timeout_s is None:
            return None
        return max(self.at_s + self.timeout_s - time.monotonic(), 0.0)


@dataclass(eq=False, slots=True)
class LiveChoice:
    """A choice of a live request: its output so far, and what its present attempt holds.

    The output may begin with what another router sent.

    `prompt` is set while the choice's prompt is at its worker, `workers` while it needs them, and
    `probation` while it may be the cause of a death.
    """

    number: int
    name: str  # of the first attempt
    stream: WorkStream
    prompt: SentPrompt | None = None
    workers: HeldWorkers | None = None
    probation: ProbationPlace | None = None
    has_output: bool = False  # of the present attempt
    token_ids: list[int] = field(default_factory=list)
    attempt: int = 1
    num_deaths: int = 0  # of workers that had it
    attempts: list[Attempt] = field(default_factory=list)  # those that were sent
    finish_reason: FinishReason | None = None

    def begin_attempt(self, stream: WorkStream, sent_prompts: SentPrompts) -> None:
        """Give back what the last attempt held, and read another stream from now on."""
        self.give_back(sent_prompts)
        self.attempt += 1
        self.has_output = False
        self.stream = stream

    def end_attempt(self, failure: Reason | None = None) -> None:
        """Note when the attempt that runs ended, if one does. Safe to repeat."""
        if self.attempts and self.attempts[-1].ended_s is None:
            self.attempts[-1].ended_s, self.attempts[-1].failure = time.monotonic(), failure

    def discard_prompt(self, sent_prompts: SentPrompts) -> None:
        """Note that the prompt has run, or never will. Safe to repeat."""
        if self.prompt is not None:
            sent_prompts.discard(self.prompt)
            self.prompt = None

    def give_back(self, sent_prompts: SentPrompts) -> None:
        """End the present attempt: its work at the worker, its prompt, its workers. Safe to repeat."""
        self.discard_prompt(sent_prompts)
        self.stream.close()
        if self.workers is not None:
            self.workers.release(self.number)
        self._end_probation()

    def prove(self, place: ProbationPlace, num_tokens: int) -> None:
        """Count new tokens on probation; enough of them end it."""
        if place.has_proven(num_tokens):
            self._end_probation()

    def begin_probation(self, place: ProbationPlace | None) -> None:
        """Have a death of the attempt's workers count for this choice rather than for others."""
        self.probation = place
        if place is not None and self.workers is not None:
            self.stream.is_on_probation = self.workers.is_on_probation = True

    def _end_probation(self) -> None:
        if self.probation is not None:
            self.probation.release()
            self.probation = None
            self.stream.is_on_probation = False


@dataclass(eq=False, slots=True)
class LiveRequest:
    """Holds a request's part of the router's resources."""

    job: Job
    arrival: Arrival
    ticket: Ticket
    work_id: str
    choices: list[LiveChoice]
    resources: Resources
    proposed: Decision | None  # the workers chosen at admission, if there were any
    turn: Turn | None = None
    pauses: set[asyncio.Future[None]] = field(default_factory=set)  # in which it waits for a worker
    submitted_s: float = 0.0  # when `send` submitted it, on the monotonic clock
    failure: RequestError | None = None  # that ends it from outside
    first_token_s: float | None = None  # when a choice had its first token, on the same clock
    route: Route | None = None  # of the choice that was submitted last
    reason: FinishReason | Reason = Reason.CANCELLED  # why it ended
    trace: Trace | None = None  # if it is sampled
    is_closed: bool = False

    @property
    def num_moves(self) -> int:
        """Attempts of all choices beyond each one's first."""
        return sum(choice.attempt - 1 for choice in self.choices)

    def fail(self, error: RequestError) -> None:
        """End the request with an error, in the queue, at its worker or without one."""
        self.failure = error
        for pause in [*self.pauses]:
            if not pause.done():
                pause.set_exception(error)
        if self.turn is not None and not self.turn.granted.done():
            self.turn.granted.set_exception(error)
        for choice in self.choices:
            choice.stream.end(WorkFailure(error.reason, error.message))

    def check_not_failed(self) -> None:
        """Raise the error of an earlier `fail`, which ends only waits that have begun."""
        if self.failure is not None:
            raise self.failure

    def end_with(self, outcome: Outcome, reason: FinishReason | Reason) -> None:
        """Set the outcome under which `close` counts the request, and its reason."""
        self.ticket.outcome = outcome
        self.reason = reason

    def note_output(self, choice: LiveChoice, token_ids: tuple[int, ...]) -> None:
        """Add new tokens of a choice. Each token comes by here, so it does little."""
        if not choice.has_output:
            self.first_token(choice)
        choice.token_ids += token_ids
        if choice.probation is not None:
            choice.prove(choice.probation, len(token_ids))
        self.resources.admission.note_tokens(self.ticket, len(token_ids))

    def first_token(self, choice: LiveChoice) -> None:
        """Give back what a choice holds until its prompt has run. Safe to repeat."""
        choice.has_output = True
        if self.first_token_s is None:
            self.first_token_s = time.monotonic()
        choice.discard_prompt(self.resources.pool.sent_prompts)
        if choice.workers is not None:
            choice.workers.note_first_token(choice.number)
        self._finish_turn()

    def lose_prefill(self, number: int, failure: WorkFailure) -> None:
        """Have a choice move whose prefill worker is lost: what came of its KV stays at decode."""
        choice = next(choice for choice in self.choices if choice.number == number)
        choice.stream.fail(failure)

    def end_choice(self, choice: LiveChoice) -> None:
        """Give back all that a choice holds. Safe to repeat."""
        choice.end_attempt()
        choice.give_back(self.resources.pool.sent_prompts)

    def close(self) -> None:
        """Give back everything and count the outcome. Safe to repeat."""
        if self.is_closed:
            return
        self.is_closed = True
        for choice in self.choices:
            self.end_choice(choice)
        self._finish_turn()
        self.resources.admission.leave(self.ticket)

    def _finish_turn(self) -> None:
        if self.turn is not None:
            self.resources.queue.finish(self.turn)
            self.turn = None
