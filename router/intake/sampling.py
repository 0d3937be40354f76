"""Sampling options of a client, checked and made into those of a worker."""

from dataclasses import replace

from common.messages import SamplingParams
from common.rpc.convert_sampling import sampling_from_pb
from pdserve.errors import InvalidRequestError, Reason
from pdserve.v1 import inference_pb2
from router.intake.grammar_limits import parse_grammar
from router.intake.sampling_ranges import BIASES, RANGES

_MAX_CHOICES = 16
_MAX_STOPS = 128
_MAX_STOP_CHARS = 256
_MAX_STOP_TOKENS = 128
_MAX_BIASES = 300
_MAX_BAD_WORDS = 128
_MAX_BAD_WORD_CHARS = 256
_MAX_ALLOWED_TOKENS = 1024
# Keeps a message below gRPC's 4 MiB: a token's entry takes at most 13 bytes and 7 for each likely token.
_MAX_PROMPT_LOGPROBS = 500_000


def parse_sampling(
    message: inference_pb2.SamplingParams, seed: int, max_tokens: int, vocab_size: int
) -> SamplingParams:
    """Return the checked sampling; `seed` and `max_tokens` are checked before.

    Raises InvalidRequestError.
    """
    for name, allowed in RANGES.items():
        if _is_set(message, name) and getattr(message, name) not in allowed:
            raise _refusal(name, f"{getattr(message, name):g} is not in {allowed}")
    for name in ("top_k", "min_p"):
        if getattr(message, f"no_{name}") and getattr(message, name):
            raise _refusal(f"no_{name}", f"does not go with {name}")
    _check_stop(message, vocab_size)
    _check_biases(message, vocab_size)
    _check_bans(message, vocab_size)
    if not 0 <= message.min_tokens <= max_tokens:
        raise _refusal("min_tokens", f"{message.min_tokens} is not in [0, {max_tokens}]")
    repetition = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    return replace(
        sampling_from_pb(message),
        seed=seed,
        max_tokens=max_tokens,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        repetition_penalty=repetition,
        grammar=parse_grammar(message),
    )


def parse_num_choices(message: inference_pb2.SamplingParams) -> int:
    """Return the number of choices, checked. Raises InvalidRequestError."""
    number = message.n if message.HasField("n") else 1
    if not 1 <= number <= _MAX_CHOICES:
        raise _refusal("n", f"{number} is not in [1, {_MAX_CHOICES}]")
    return number


def values_in_use(sampling: SamplingParams) -> inference_pb2.SamplingParams:
    """Return the options that a router fills in where a client is silent, as they are used.

    Put over the client's own, they leave no router anything to fill in.
    """
    return inference_pb2.SamplingParams(
        temperature=sampling.temperature,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        top_k=sampling.top_k,
        no_top_k=not sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        no_min_p=not sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
    )


def check_prompt_logprobs(sampling: SamplingParams, num_prompt_tokens: int) -> None:
    """Raise InvalidRequestError when the prompt's log-probabilities would not fit in a message."""
    if sampling.prompt_logprobs is None:
        return
    most = _MAX_PROMPT_LOGPROBS // (sampling.prompt_logprobs + 2)
    if num_prompt_tokens > most:
        raise _refusal(
            "prompt_logprobs",
            f"{sampling.prompt_logprobs} go with prompts of up to {most} tokens, "
            f"this one has {num_prompt_tokens}",
        )


def _is_set(message: inference_pb2.SamplingParams, name: str) -> bool:
    has_presence = message.DESCRIPTOR.fields_by_name[name].has_presence
    return not has_presence or message.HasField(name)  # type: ignore[arg-type]  # names of fields


def _check_stop(message: inference_pb2.SamplingParams, vocab_size: int) -> None:
    if len(message.stop) > _MAX_STOPS:
        raise _refusal("stop", f"more than {_MAX_STOPS} stop texts")
    if any(not 1 <= len(text) <= _MAX_STOP_CHARS for text in message.stop):
        raise _refusal("stop", f"each must have 1 to {_MAX_STOP_CHARS} characters")
    if len(message.stop_token_ids) > _MAX_STOP_TOKENS:
        raise _refusal("stop_token_ids", f"more than {_MAX_STOP_TOKENS} stop tokens")
    if any(token_id >= vocab_size for token_id in message.stop_token_ids):
        raise _unknown_token("stop_token_ids", vocab_size)


def _check_biases(message: inference_pb2.SamplingParams, vocab_size: int) -> None:
    biases = message.logit_bias
    if len(biases) > _MAX_BIASES:
        raise _refusal("logit_bias", f"more than {_MAX_BIASES} tokens")
    if any(token_id >= vocab_size for token_id in biases):
        raise _unknown_token("logit_bias", vocab_size)
    for value in biases.values():
        if value not in BIASES:
            raise _refusal("logit_bias", f"{value:g} is not in {BIASES}")


def _check_bans(message: inference_pb2.SamplingParams, vocab_size: int) -> None:
    if len(message.bad_words) > _MAX_BAD_WORDS:
        raise _refusal("bad_words", f"more than {_MAX_BAD_WORDS} texts")
    if any(not 1 <= len(text) <= _MAX_BAD_WORD_CHARS for text in message.bad_words):
        raise _refusal("bad_words", f"each must have 1 to {_MAX_BAD_WORD_CHARS} characters")
    if len(message.allowed_token_ids) > _MAX_ALLOWED_TOKENS:
        raise _refusal("allowed_token_ids", f"more than {_MAX_ALLOWED_TOKENS} tokens")
    if any(token_id >= vocab_size for token_id in message.allowed_token_ids):
        raise _unknown_token("allowed_token_ids", vocab_size)


def _refusal(name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=f"sampling.{name}")


def _unknown_token(name: str, vocab_size: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"a token is outside the vocabulary of {vocab_size}",
        reason=Reason.TOKEN_OUT_OF_VOCABULARY,
        field=f"sampling.{name}",
    )
