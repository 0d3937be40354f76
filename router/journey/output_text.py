"""One answer's text as its tokens come."""

from collections.abc import Callable, Sequence

from common.messages import FinishReason
from router.intake.job import Job
from router.journey.detokenizer import IncrementalDetokenizer, StopStrings


class OutputText:
    """From tokens to the text that is certain and lies before the first stop text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], job: Job) -> None:
        self._detokenizer = IncrementalDetokenizer(decode)
        self._stops = StopStrings(job.stop)
        self._sampling = job.sampling
        self._num_tokens = 0

    @property
    def is_stopped(self) -> bool:
        """Whether a stop text ended it."""
        return self._stops.is_hit

    @property
    def stop_text(self) -> str:
        """The one that did; empty before."""
        return self._stops.hit

    def push(self, new: tuple[int, ...], finish_reason: FinishReason | None) -> str:
        """Add tokens, the last ones if there is a `finish_reason`; returns the text that became certain.

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
        """The tokens whose text the client sees: one that stopped the request is not among them."""
        is_hidden = new and new[-1] in self._sampling.stop_token_ids
        return new[:-1] if reason is FinishReason.STOP and is_hidden else new
