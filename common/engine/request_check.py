"""Last check of a request before an engine takes it: nothing in it may make a step fail.

Routers check the same and say which field is wrong. Workers do not rely on it: kernels check no index, and
one out of range reads or writes another sequence's memory.
"""

from collections.abc import Iterator
from math import isfinite

from common.engine.model_spec import ModelSpec
from common.messages import SamplingParams, WorkFailure, WorkRequest
from pdserve.errors import Reason


def refusal_of(request: WorkRequest, spec: ModelSpec) -> WorkFailure | None:
    """Return why no engine of this model may run the request; None if it may. O(tokens), in C."""
    prompt, sampling = request.prompt_token_ids, request.sampling
    if not prompt:
        return WorkFailure(Reason.EMPTY_PROMPT, "the prompt is empty")
    # each of them alone is one loop in C
    given = (*_extremes(prompt), *_extremes(request.prior_token_ids))
    for token_id in (*given, *_other_tokens(sampling)):
        if not 0 <= token_id < spec.vocab_size:
            message = f"token {token_id} is outside the vocabulary of {spec.vocab_size}"
            return WorkFailure(Reason.TOKEN_OUT_OF_VOCABULARY, message)
    if request.num_given_tokens > spec.max_context_tokens:
        message = (
            f"{request.num_given_tokens} tokens exceed the context of {spec.max_context_tokens}"
        )
        return WorkFailure(Reason.CONTEXT_EXCEEDED, message)
    wrong = next((name for name, is_right in _numbers(sampling) if not is_right), None)
    if wrong is not None:
        return WorkFailure(Reason.INVALID_FIELD, f"{wrong} is out of its range")
    if request.prior_token_ids and not _is_resumable(request):
        return _NOTHING_LEFT
    return None if _is_handoff_sound(request) else _BAD_HANDOFF


_NOTHING_LEFT = WorkFailure(Reason.INTERNAL, "the output so far leaves nothing to generate")
_BAD_HANDOFF = WorkFailure(Reason.INTERNAL, "the hand-off asks for positions that do not exist")


def _extremes(token_ids: tuple[int, ...]) -> tuple[int, ...]:
    return (min(token_ids), max(token_ids)) if token_ids else ()


def _other_tokens(sampling: SamplingParams) -> Iterator[int]:
    yield from sampling.stop_token_ids
    yield from (token_id for token_id, _ in sampling.logit_bias)
    yield from sampling.allowed_token_ids
    for word in sampling.bad_words:
        yield from word


def _numbers(sampling: SamplingParams) -> Iterator[tuple[str, bool]]:
    """Yield each number that a step computes with, and if it is within its range. False for NaN."""
    yield "max_tokens", sampling.max_tokens >= 1
    yield "min_tokens", sampling.min_tokens >= 0
    yield "temperature", sampling.temperature >= 0 and isfinite(sampling.temperature)
    yield "top_k", 0 <= sampling.top_k < 2**31
    yield "top_p", 0 < sampling.top_p <= 1
    yield "min_p", 0 <= sampling.min_p <= 1
    repetition = sampling.repetition_penalty
    yield "repetition_penalty", repetition > 0 and isfinite(repetition)
    yield "presence_penalty", isfinite(sampling.presence_penalty)
    yield "frequency_penalty", isfinite(sampling.frequency_penalty)
    yield "logit_bias", all(isfinite(bias) for _, bias in sampling.logit_bias)
    yield "bad_words", all(sampling.bad_words)
    yield "logprobs", sampling.logprobs is None or sampling.logprobs >= 0
    yield "prompt_logprobs", sampling.prompt_logprobs is None or sampling.prompt_logprobs >= 0


def _is_resumable(request: WorkRequest) -> bool:
    """Return True if tokens are left to generate, and the prompt's log-probabilities were told."""
    sampling = request.sampling
    has_rest = len(request.prior_token_ids) < sampling.max_tokens
    return has_rest and not sampling.needs_all_prompt_logits


def _is_handoff_sound(request: WorkRequest) -> bool:
    """Return True if the KV that decode says it holds fits the tokens, and its pieces have a length."""
    is_part = 0 <= request.num_held_tokens <= request.num_given_tokens
    return is_part and (request.max_item_tokens is None or request.max_item_tokens >= 1)
