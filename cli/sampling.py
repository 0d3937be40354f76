"""Sampling flags, and the message made of them."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any

import typer

from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2


def _int(help_text: str, low: int = 0, high: int = 2**31 - 1) -> Any:
    return typer.Option(min=low, max=high, help=help_text)


def _float(help_text: str) -> Any:
    return typer.Option(help=help_text)


DEFAULT_MAX_TOKENS = 512  # a default limit, since a greedy answer may go on for ever
_MODELS = "unset: the model's default, else"

MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=2**31 - 1,
        show_default=str(DEFAULT_MAX_TOKENS),
        help="Most tokens to generate; fewer by default where the context has no room",
    ),
]
MinTokens = Annotated[int | None, _int("Do not stop before so many tokens")]
Temperature = Annotated[float | None, _float(f"0 is greedy; {_MODELS} 0")]
Choices = Annotated[int | None, _int("So many continuations", low=1)]
Seed = Annotated[int | None, _int("Makes sampling repeatable", high=2**64 - 1)]
Stop = Annotated[list[str] | None, typer.Option(help="Stop before this text")]
TopK = Annotated[
    int | None, _int(f"Draw from the k likeliest tokens; 0: from all; {_MODELS} from all")
]
TopP = Annotated[
    float | None, _float(f"Draw from the likeliest tokens of this share together; {_MODELS} 1")
]
MinP = Annotated[
    float | None, _float(f"Draw from tokens this times as likely as the likeliest; {_MODELS} 0")
]
RepetitionPenalty = Annotated[
    float | None, _float(f"Divides logits of tokens seen so far; {_MODELS} 1")
]
PresencePenalty = Annotated[float | None, _float("Lowers logits of tokens in the output")]
FrequencyPenalty = Annotated[float | None, _float("The same, for each time that they are")]
LogitBias = Annotated[list[str] | None, typer.Option(metavar="ID=VALUE", help="Added to a logit")]
BadWords = Annotated[list[str] | None, typer.Option("--bad-word", help="A text that never comes")]
AllowedTokenIds = Annotated[
    list[int] | None,
    typer.Option("--allowed-token-id", min=0, max=2**32 - 1, help="Only such tokens may come"),
]
Logprobs = Annotated[
    int | None, _int("With --json: logprobs, also of so many likeliest tokens", high=20)
]
PromptLogprobs = Annotated[int | None, _int("The same for the prompt's tokens", high=20)]

_FIELDS = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "seed",
    "stop",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "logprobs",
    "prompt_logprobs",
    "bad_words",
    "allowed_token_ids",
)


def read_sampling(context: typer.Context) -> inference_pb2.SamplingParams:
    """Return the sampling parameters that a command's flags set. Raises SetupError."""
    flags = context.params
    biases = dict(_parse_bias(text) for text in flags["logit_bias"] or ())
    try:
        options = {name: flags[name] for name in _FIELDS}
        sampling = inference_pb2.SamplingParams(**options, logit_bias=biases)
    except ValueError as error:  # bytes that are not text; typer reports all other errors
        raise SetupError(f"--stop or --bad-word: {error}") from error
    say_zeros(sampling, {name for name, value in options.items() if value == 0})
    return sampling


def say_zeros(sampling: inference_pb2.SamplingParams, zeros: Collection[str]) -> None:
    """Mark the fields that are explicitly 0, which looks like "unset" on the wire."""
    sampling.no_top_k |= "top_k" in zeros
    sampling.no_min_p |= "min_p" in zeros


def describe_logprobs(
    entries: Sequence[inference_pb2.TokenLogprobs],
) -> list[dict[str, float | list[list[float]]]]:
    """Return, for JSON, each place's logprob and [token id, logprob] of the likeliest tokens."""
    return [
        {
            "logprob": entry.logprob,
            "top": [
                [token_id, logprob]
                for token_id, logprob in zip(entry.top_token_ids, entry.top_logprobs, strict=True)
            ],
        }
        for entry in entries
    ]


def _parse_bias(text: str) -> tuple[int, float]:
    token_id, _, value = text.partition("=")
    try:
        number = int(token_id)
        if not 0 <= number < 2**32:
            raise ValueError("no token id")
        return number, float(value)
    except ValueError as error:
        raise SetupError(f"--logit-bias '{text}' is not ID=VALUE", "for example 42=-1.5") from error
