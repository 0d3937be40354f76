"""Outputs of one request, kept for a router whose connection broke."""

from array import array
from collections.abc import Iterator

from common.messages import SequenceOutput, TokenLogprobs

_MAX_TOKENS = 256  # of one message, which keeps it far below the limit also with log-probabilities


class KeptOutputs:
    """Outputs of one attempt of a request so far, as one: 4 bytes a token, unless it has logprobs."""

    def __init__(self, request_id: str, attempt: int) -> None:
        self.attempt = attempt
        self._request_id = request_id
        self._first_index = 0  # of the tokens below
        self._token_ids = array("I")
        self._logprobs: list[TokenLogprobs] = []
        self._prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self._last = SequenceOutput(request_id, 0)  # the end, or the latest one with timings

    def add(self, output: SequenceOutput) -> None:
        """Append the next output. Each token comes by here, so it does little."""
        if output.token_ids:
            if not self._token_ids:
                self._first_index, self._prompt_logprobs = output.index, output.prompt_logprobs
            self._token_ids.extend(output.token_ids)
            if output.logprobs:
                self._logprobs.extend(output.logprobs)
        if output.timings or output.finish_reason or output.failure:
            self._last = output

    @property
    def has_ended(self) -> bool:
        """True once the request has ended, well or badly."""
        return bool(self._last.finish_reason or self._last.failure)

    def since(self, index: int) -> Iterator[SequenceOutput]:
        """Yield what a router lacks that has all tokens before `index`, in order; parts of 256 tokens.

        The last part has the timings and the end, which come alone if there are no tokens.
        """
        start, num_tokens, last = (
            max(index - self._first_index, 0),
            len(self._token_ids),
            self._last,
        )
        while start < num_tokens:
            part = self._part(start)
            start += len(part.token_ids)
            if start == num_tokens and not last.failure:
                part.finish_reason, part.timings = last.finish_reason, last.timings
                yield part
                return
            yield part
        if self.has_ended:
            end = self._first_index + num_tokens
            yield SequenceOutput(
                self._request_id, end, (), last.finish_reason, last.failure, last.timings
            )

    def _part(self, start: int) -> SequenceOutput:
        prompt_logprobs = () if start else self._prompt_logprobs
        end = start + (1 if prompt_logprobs else _MAX_TOKENS)  # those of a prompt are large
        return SequenceOutput(
            self._request_id,
            self._first_index + start,
            tuple(self._token_ids[start:end]),
            logprobs=tuple(self._logprobs[start:end]),
            prompt_logprobs=prompt_logprobs,
        )
