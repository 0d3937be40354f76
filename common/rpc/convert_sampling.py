"""Sampling options and log-probabilities to and from messages that both our protocols share."""

from collections.abc import Iterable

from common.messages import SamplingParams, TokenLogprobs
from common.rpc.structured import grammar_from_pb, grammar_to_pb
from pdserve.v1 import inference_pb2, worker_pb2


def sampling_to_pb(sampling: SamplingParams) -> inference_pb2.SamplingParams:
    """Return a message of validated options, every field but bad_words set."""
    return inference_pb2.SamplingParams(
        temperature=sampling.temperature,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        stop_token_ids=sampling.stop_token_ids,
        ignore_eos=sampling.ignore_eos,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        min_tokens=sampling.min_tokens,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        structured_output=grammar_to_pb(sampling.grammar),
        allowed_token_ids=sampling.allowed_token_ids,
    )


def sampling_from_pb(
    message: inference_pb2.SamplingParams, bad_words: Iterable[worker_pb2.BadWord] = ()
) -> SamplingParams:
    """Return the options of a message; `bad_words` are the tokens of its bad words."""
    return SamplingParams(
        temperature=message.temperature,
        seed=message.seed,
        max_tokens=message.max_tokens,
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        top_k=message.top_k,
        top_p=message.top_p,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        min_tokens=message.min_tokens,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        grammar=grammar_from_pb(message.structured_output),
        bad_words=tuple(tuple(word.token_ids) for word in bad_words),
        allowed_token_ids=tuple(message.allowed_token_ids),
    )


def logprobs_to_pb(entry: TokenLogprobs) -> inference_pb2.TokenLogprobs:
    """One place's log-probabilities to their message."""
    return inference_pb2.TokenLogprobs(
        logprob=entry.logprob,
        top_token_ids=entry.top_token_ids,
        top_logprobs=entry.top_logprobs,
    )


def logprobs_from_pb(message: inference_pb2.TokenLogprobs) -> TokenLogprobs:
    """A message to one place's log-probabilities."""
    return TokenLogprobs(message.logprob, tuple(message.top_token_ids), tuple(message.top_logprobs))
