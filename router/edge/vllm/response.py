"""Answers of vLLM's gRPC contract, made from the deltas of a request.

With `stream`, every delta is a chunk, and a choice ends with a Complete that repeats its totals.
Without it the Complete is the whole answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2

from common.messages import FinishReason, TokenLogprobs
from router.intake.job import Job
from router.journey.progress import Delta, Summary

_ABORT = "abort"
_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


@dataclass(slots=True)
class _Choice:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    is_ended: bool = False


class Answers:
    """Makes one request's answers, and keeps their totals."""

    def __init__(self, job: Job, *, stream: bool) -> None:
        self._job = job
        self._stream = stream
        self._choices = [_Choice() for _ in range(job.num_choices)]

    def take(self, delta: Delta) -> Iterator[vllm_pb2.GenerateResponse]:
        """Yield the messages that a delta makes."""
        choice = self._choices[delta.choice]
        choice.token_ids += delta.token_ids
        choice.logprobs += delta.logprobs
        choice.prompt_logprobs += delta.prompt_logprobs
        if self._stream and delta.token_ids:
            yield vllm_pb2.GenerateResponse(chunk=self._chunk(delta))
        if delta.summary is not None:
            choice.is_ended = True
            complete = self._complete(delta.choice, _REASONS[delta.summary.reason])
            complete.cached_tokens = delta.summary.timings.num_cached_tokens
            self._note_stop(complete, delta.summary)
            yield vllm_pb2.GenerateResponse(complete=complete)

    def abort(self) -> Iterator[vllm_pb2.GenerateResponse]:
        """Yield the last message of every open choice, when Abort ended the request."""
        for index, choice in enumerate(self._choices):
            if not choice.is_ended:
                yield vllm_pb2.GenerateResponse(complete=self._complete(index, _ABORT))

    def _chunk(self, delta: Delta) -> vllm_pb2.GenerateStreamChunk:
        return vllm_pb2.GenerateStreamChunk(
            token_ids=delta.token_ids,
            prompt_tokens=len(self._job.prompt_token_ids),
            completion_tokens=len(delta.token_ids),
            output_logprobs=_output_logprobs(delta.token_ids, delta.logprobs),
            input_logprobs=self._input_logprobs(delta.prompt_logprobs),
            index=delta.choice,
        )

    def _complete(self, index: int, reason: str) -> vllm_pb2.GenerateComplete:
        choice = self._choices[index]
        return vllm_pb2.GenerateComplete(
            output_ids=choice.token_ids,
            finish_reason=reason,
            prompt_tokens=len(self._job.prompt_token_ids),
            completion_tokens=len(choice.token_ids),
            output_logprobs=_output_logprobs(choice.token_ids, choice.logprobs),
            input_logprobs=self._input_logprobs(choice.prompt_logprobs),
            index=index,
        )

    def _note_stop(self, complete: vllm_pb2.GenerateComplete, summary: Summary) -> None:
        """Set the client's stop that ended the choice, if one did."""
        last = complete.output_ids[-1] if complete.output_ids else None
        if summary.stop_text:
            complete.matched_stop_str = summary.stop_text
        elif summary.reason is FinishReason.STOP and last in self._job.sampling.stop_token_ids:
            complete.matched_token_id = last

    def _input_logprobs(self, places: Sequence[TokenLogprobs]) -> vllm_pb2.InputLogProbs | None:
        """Return the log-probabilities of the prompt's tokens; the first token has none."""
        if not places:
            return None
        values = [vllm_pb2.InputTokenLogProb()]
        values += [vllm_pb2.InputTokenLogProb(value=place.logprob) for place in places]
        return vllm_pb2.InputLogProbs(
            token_logprobs=values,
            token_ids=self._job.prompt_token_ids,
            top_logprobs=[vllm_pb2.TopLogProbs(), *map(_top, places)],
        )


def _output_logprobs(
    token_ids: Sequence[int], places: Sequence[TokenLogprobs]
) -> vllm_pb2.OutputLogProbs | None:
    if not places:
        return None
    return vllm_pb2.OutputLogProbs(
        token_logprobs=[place.logprob for place in places],
        token_ids=token_ids,
        top_logprobs=map(_top, places),
    )


def _top(place: TokenLogprobs) -> vllm_pb2.TopLogProbs:
    return vllm_pb2.TopLogProbs(values=place.top_logprobs, token_ids=place.top_token_ids)
