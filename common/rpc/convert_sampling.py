"""Conversion of sampling options, grammars and log-probabilities, which both our protocols carry."""

from collections.abc import Iterable

from common.messages import Grammar, GrammarKind, SamplingParams, TokenLogprobs
from pdserve.v1 import inference_pb2, worker_pb2


def sampling_to_pb(sampling: SamplingParams) -> inference_pb2.SamplingParams:
    """Convert validated options to a message with every field set but bad_words."""
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
    """Convert a message with every field set to options; `bad_words` are the tokens of its bad words."""
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


def grammar_to_pb(grammar: Grammar | None) -> inference_pb2.StructuredOutput | None:
    """Convert a grammar to its message; None stays None."""
    if grammar is None:
        return None
    message = inference_pb2.StructuredOutput(strict_formats=grammar.strict_formats)
    if grammar.kind is GrammarKind.CHOICE:
        message.choice.texts.extend(grammar.texts)
    else:
        setattr(message, grammar.kind, grammar.texts[0])
    return message


def grammar_from_pb(message: inference_pb2.StructuredOutput) -> Grammar | None:
    """Convert a message to a grammar; None when no form is set."""
    form = message.WhichOneof("form")
    if form is None:
        return None
    if form == "choice":
        return Grammar(GrammarKind.CHOICE, tuple(message.choice.texts), message.strict_formats)
    return Grammar(GrammarKind(form), (getattr(message, form),), message.strict_formats)


def logprobs_to_pb(entry: TokenLogprobs) -> inference_pb2.TokenLogprobs:
    """Convert one position's log-probabilities to their message."""
    return inference_pb2.TokenLogprobs(
        logprob=entry.logprob,
        top_token_ids=entry.top_token_ids,
        top_logprobs=entry.top_logprobs,
    )


def logprobs_from_pb(message: inference_pb2.TokenLogprobs) -> TokenLogprobs:
    """Convert a message to one position's log-probabilities."""
    return TokenLogprobs(message.logprob, tuple(message.top_token_ids), tuple(message.top_logprobs))
