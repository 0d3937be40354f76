"""One question on its way: its answer so far, and when each part of it came.

Text, tokens and the reason of the end must be exactly those of the undisturbed run. Log-probabilities
may differ by `_MAX_DELTA`: a step that recomputes a prefix may sum in another order.
"""

import time
from contextlib import aclosing
from dataclasses import dataclass, field

from benchmarks.chaos.questions import Question
from pdserve.client import AsyncClient
from pdserve.completion import Completion
from pdserve.errors import PdserveError, RequestCancelledError
from pdserve.v1 import inference_pb2

_MAX_DELTA = 1e-3


@dataclass(frozen=True, slots=True)
class Choice:
    """All that a client learns of one continuation, where it went apart."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[float, ...]  # of each token, then of those most likely at its place

    def agrees_with(self, whole: "Choice", *, is_cut: bool) -> bool:
        """Return True if the continuation is `whole`, or its beginning if it was cut."""
        same = (
            whole.text.startswith(self.text)
            and whole.token_ids[: len(self.token_ids)] == self.token_ids
            and self.delta_to(whole) <= _MAX_DELTA
        )
        ends = (len(self.text), len(self.token_ids), self.finish_reason, len(self.logprobs))
        others = (len(whole.text), len(whole.token_ids), whole.finish_reason, len(whole.logprobs))
        return same and (is_cut or ends == others)

    def delta_to(self, whole: "Choice") -> float:
        """Return the largest difference of two log-probabilities; 0 without any."""
        pairs = zip(self.logprobs, whole.logprobs, strict=False)
        return max((abs(ours - theirs) for ours, theirs in pairs), default=0.0)


@dataclass(slots=True)
class Asking:
    """A question and what has come of it."""

    question: Question
    request_id: str
    completion: Completion = field(default_factory=Completion)
    times_s: list[float] = field(default_factory=list)  # of each message, monotonic
    struck: dict[str, float] = field(default_factory=dict)  # fault that met it -> when
    error: str = ""
    is_cancelled: bool = False
    is_resumable: bool = False  # it may go on at another router

    async def run(self, client: AsyncClient, timeout_s: float) -> None:
        """Ask, and keep what comes. An error of pdserve is kept too, and not raised."""
        stream = client.stream(
            self.question.prompt,
            self.question.sampling,
            request_id=self.request_id,
            cache_salt=self.request_id,  # its prompt is computed anew
            resumable=self.is_resumable,
            timeout=timeout_s,
        )
        try:
            async with aclosing(stream):
                async for response in stream:
                    self._add(response)
        except RequestCancelledError:
            self.is_cancelled = True
        except PdserveError as error:
            self.error = f"{type(error).__name__}: {error}"

    def answer(self) -> tuple[Choice, ...]:
        """Return the answer so far."""
        return tuple(
            Choice(
                choice.text,
                tuple(choice.token_ids),
                choice.finish_reason,
                tuple(p for one in choice.logprobs for p in (one.logprob, *one.top_logprobs)),
            )
            for choice in self.completion.choices
        )

    def agrees_with(self, expected: tuple[Choice, ...]) -> bool:
        """Return True if the answer is the expected one; of a cancelled question, its beginning."""
        answer = self.answer()
        if self.error or (len(answer) != len(expected) and not self.is_cancelled):
            return False
        return all(
            part.agrees_with(whole, is_cut=self.is_cancelled)
            for part, whole in zip(answer, expected, strict=False)
        )

    def gap_s(self, fault: str) -> float | None:
        """Return the seconds from a fault to the next message; None if none came."""
        at_s = self.struck[fault]
        return next((time_s - at_s for time_s in self.times_s if time_s > at_s), None)

    def _add(self, response: inference_pb2.GenerateResponse) -> None:
        choices = self.completion.choices
        known = len(choices[response.choice].token_ids) if response.choice < len(choices) else 0
        if response.token_ids and response.index != known:
            self.error = f"token {known} was to come, and {response.index} came"
        self.completion.add(response)
        self.times_s.append(time.monotonic())
