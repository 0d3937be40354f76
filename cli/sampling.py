"""The flags that say how to choose tokens, and the message made of them."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2


def _int(help_text: str, low: int = 0, high: int = 2**31 - 1) -> Any:
    return typer.Option(min=low, max=high, help=help_text)


def _float(help_text: str) -> Any:
    return typer.Option(help=help_text)


MaxTokens = Annotated[int | None, _int("Most tokens to generate", low=1)]
MinTokens = Annotated[int, _int("Do not stop before so many tokens")]
Temperature = Annotated[float, _float("0 is greedy")]
Choices = Annotated[int | None, _int("So many continuations", low=1)]
Seed = Annotated[int | None, _int("Makes sampling repeatable", high=2**64 - 1)]
Stop = Annotated[list[str] | None, typer.Option(help="Stop before this text")]
TopK = Annotated[int, _int("Draw from the k likeliest tokens; 0: from all")]
TopP = Annotated[float | None, _float("Draw from the likeliest tokens of this share together")]
MinP = Annotated[float, _float("Draw from tokens this times as likely as the likeliest")]
RepetitionPenalty = Annotated[float | None, _float("Divides logits of tokens seen so far")]
PresencePenalty = Annotated[float, _float("Lowers logits of tokens in the output")]
FrequencyPenalty = Annotated[float, _float("The same, for each time that they are")]
LogitBias = Annotated[list[str] | None, typer.Option(metavar="ID=VALUE", help="Added to a logit")]
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
)


def read_sampling(context: typer.Context) -> inference_pb2.SamplingParams:
    """What the flags of a command with all these parameters ask for. Raises SetupError."""
    flags = context.params
    biases = dict(_parse_bias(text) for text in flags["logit_bias"] or ())
    try:
        options = {name: flags[name] for name in _FIELDS}
        return inference_pb2.SamplingParams(**options, logit_bias=biases)
    except ValueError as error:  # bytes that are no text, the only thing that typer lets through
        raise SetupError(f"--stop: {error}") from error


def describe_logprobs(
    entries: Sequence[inference_pb2.TokenLogprobs],
) -> list[dict[str, float | list[list[float]]]]:
    """For JSON: each place's logprob, and [token id, logprob] of the likeliest tokens there."""
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
