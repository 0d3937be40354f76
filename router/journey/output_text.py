"""Text of an answer as its tokens come."""

from collections.abc import Callable, Sequence

from common.messages import FinishReason
from pdserve.errors import InvalidRequestError
from router.intake.job import Job
from router.journey.detokenizer import IncrementalDetokenizer, StopStrings


class OutputText:
    """Turns tokens into the text that is certain and lies before the first stop text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], job: Job) -> None:
        self._detokenizer = IncrementalDetokenizer(decode)
        self._stops = StopStrings(job.stop)
        self._sampling = job.sampling
        self._num_tokens = 0

    @property
    def is_stopped(self) -> bool:
        """True once a stop text ended the answer."""
        return self._stops.is_hit

    @property
    def stop_text(self) -> str:
        """Stop text that ended the answer; empty without one."""
        return self._stops.hit

    def replay(self, token_ids: tuple[int, ...]) -> None:
        """Take tokens whose text the client has: it depends on them alone, not on how they came.

        Raises InvalidRequestError when a stop text is among them, with which the output had ended.
        """
        self.push(token_ids, None)
        if self.is_stopped:
            message = f"the stop text {self.stop_text!r} has ended this output"
            raise InvalidRequestError(message, field="received.token_ids")

    def push(self, new: tuple[int, ...], finish_reason: FinishReason | None) -> str:
        """Add tokens, and return the text that became certain.

        With a `finish_reason` they are the last.

        A stop text counts if the token that completes it is number min_tokens or a later one.
        """
        num_early = max(0, self._sampling.min_tokens - 1 - self._num_tokens)
        self._num_tokens += len(new)
        visible = self._visible(new, finish_reason)
        text = self._push(visible[:num_early], may_stop=False)
        text += self._push(visible[num_early:], may_stop=True)
        if finish_reason is not None and not self.is_stopped:
            text += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
        return text

    def _push(self, tokens: tuple[int, ...], *, may_stop: bool) -> str:
        return self._stops.push(self._detokenizer.push(tokens), may_stop=may_stop) if tokens else ""

    def _visible(self, new: tuple[int, ...], reason: FinishReason | None) -> tuple[int, ...]:
        """Return the tokens whose text the client sees: all but one that stopped the request."""
        is_hidden = new and new[-1] in self._sampling.stop_token_ids
        return new[:-1] if reason is FinishReason.STOP and is_hidden else new
