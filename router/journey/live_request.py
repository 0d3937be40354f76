"""Live requests: an admitted request, and everything that it holds until its end.

1. `Dispatcher.admit` makes it with a ticket of the admission and a stream for each choice.
2. `Dispatcher.wait_for_turn` adds its turn in the prompt queue.
3. `Dispatcher.send` adds the workers that it needs, and for each choice a prompt sent to a worker.
4. `first_token` gives back a choice's prompt and the turn, and with the last choice the prefill
   worker.
5. `end_choice` ends a choice's stream: a worker that still computes it is told to stop.
6. `close` gives back whatever is still held, at any point. Safe to repeat.
"""

import time
from dataclasses import dataclass

from pdserve.errors import RequestCancelledError
from router.admission.admission import Admission, Outcome, Ticket
from router.admission.prompt_queue import PromptQueue, Turn
from router.intake.job import Job
from router.routing.policy import Decision
from router.workers.pool import WorkerPool
from router.workers.sent_prompts import SentPrompt
from router.workers.work_stream import WorkStream
from router.workers.worker_use import HeldWorkers

_CANCELLED = "cancelled by Cancel"


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
    """A choice of a live request. `prompt` is set while the choice's prompt is at its worker."""

    number: int
    stream: WorkStream
    prompt: SentPrompt | None = None
    has_output: bool = False


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
    workers: HeldWorkers | None = None
    submitted_s: float = 0.0  # when `send` submitted it, on the monotonic clock
    is_closed: bool = False

    def cancel(self) -> None:
        """End the request with RequestCancelledError, in the queue or at its worker."""
        if self.turn is not None and not self.turn.granted.done():
            self.turn.granted.set_exception(RequestCancelledError(_CANCELLED))
        for choice in self.choices:
            choice.stream.cancel(_CANCELLED)

    def end_with(self, outcome: Outcome) -> None:
        """Set the outcome under which `close` counts the request."""
        self.ticket.outcome = outcome

    def note_output(self, choice: LiveChoice, num_tokens: int) -> None:
        """Count the tokens of an output. Each token comes by here, so it does little."""
        if not choice.has_output:
            self.first_token(choice)
        self.resources.admission.note_tokens(self.ticket, num_tokens)

    def first_token(self, choice: LiveChoice) -> None:
        """Give back what a choice holds until its prompt has run. Safe to repeat."""
        choice.has_output = True
        self._discard_prompt(choice)
        if self.workers is not None:
            self.workers.note_first_token(choice.number)
        self._finish_turn()

    def end_choice(self, choice: LiveChoice) -> None:
        """Give back all that a choice holds. Safe to repeat."""
        self._discard_prompt(choice)
        choice.stream.close()

    def close(self) -> None:
        """Give back everything and count the outcome. Safe to repeat."""
        if self.is_closed:
            return
        self.is_closed = True
        for choice in self.choices:
            self.end_choice(choice)
        if self.workers is not None:
            self.workers.release()
        self._finish_turn()
        self.resources.admission.leave(self.ticket)

    def _discard_prompt(self, choice: LiveChoice) -> None:
        if choice.prompt is not None:
            self.resources.pool.sent_prompts.discard(choice.prompt)
            choice.prompt = None

    def _finish_turn(self) -> None:
        if self.turn is not None:
            self.resources.queue.finish(self.turn)
            self.turn = None
