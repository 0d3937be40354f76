"""Reader of OpenAI's batch lines: {"custom_id", "method", "url", "body"}.

Each field of a body is translated, known to have no effect, or refused by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cli.batch.fields import (
    FieldError,
    as_bool,
    as_integer,
    as_object,
    as_text,
    refuse_unknown,
)
from cli.batch.openai_forms import read_response_format
from cli.batch.prompts import read_messages, read_token_ids
from cli.batch.request import make_ask
from cli.requests import Ask
from pdserve.prompts import Prompt
from pdserve.v1 import inference_pb2

OPENAI_KEYS = frozenset({"custom_id", "method", "url", "body"})
# the same name and meaning here; those after `logit_bias` are vLLM's additions to OpenAI's
_SAME = frozenset(
    {
        *("model", "temperature", "top_p", "n", "stop", "presence_penalty", "frequency_penalty"),
        *("logit_bias", "top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids"),
        *("ignore_eos", "cache_salt", "priority", "bad_words", "allowed_token_ids"),
    }
)
_BOTH = _SAME | {"max_tokens", "seed", "response_format", "stream", "user", "logprobs"}
_KEYS = {
    "chat": _BOTH | {"messages", "max_completion_tokens", "top_logprobs", "metadata"},
    "completion": _BOTH | {"prompt"},
}
_KINDS: dict[str, Literal["chat", "completion"]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
}


@dataclass(frozen=True, slots=True)
class OpenAiCall:
    """The data that the answer needs beside the request."""

    custom_id: str
    kind: Literal["chat", "completion"]


def read_openai_line(
    entry: Mapping[str, object], flags: inference_pb2.SamplingParams
) -> tuple[Ask, OpenAiCall]:
    """Return the request and its call. Raises ValueError that names what is wrong."""
    refuse_unknown(entry, OPENAI_KEYS)
    if missing := sorted(OPENAI_KEYS - entry.keys()):
        raise ValueError(f"no {missing[0]}")
    custom_id = as_text("custom_id", entry["custom_id"])
    if not custom_id:
        raise ValueError("custom_id is empty")
    if entry["method"] != "POST":
        raise FieldError("method", "POST", entry["method"])
    kind = _KINDS.get(as_text("url", entry["url"]))
    if kind is None:
        raise FieldError("url", " or ".join(_KINDS), entry["url"])
    body = {
        name: value
        for name, value in as_object("body", entry["body"]).items()
        if value is not None  # null means "not set", as in OpenAI's API
    }
    refuse_unknown(body, frozenset(_KEYS[kind]), "body.")
    if as_bool("body.stream", body.get("stream", False)):
        raise ValueError("body.stream: a batch has no streams")
    prompt = _read_prompt(body, kind)
    try:
        return make_ask(prompt, flags, _translate(body, kind)), OpenAiCall(custom_id, kind)
    except ValueError as error:
        raise ValueError(f"body: {error}") from error


def _read_prompt(body: Mapping[str, object], kind: str) -> Prompt:
    name = "messages" if kind == "chat" else "prompt"
    if name not in body:
        raise ValueError(f"no body.{name}")
    value = body[name]
    if kind == "chat":
        # "developer" is OpenAI's newer name of the role "system"
        return [
            ("system" if role == "developer" else role, content)
            for role, content in read_messages(value)
        ]
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int):
        (value,) = value
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not all(isinstance(token_id, int) for token_id in value):
        raise ValueError("body.prompt: one prompt a line; give each of several its own line")
    return read_token_ids("body.prompt", value)


def _translate(body: Mapping[str, object], kind: str) -> dict[str, object]:
    """Return the body's fields under our names."""
    found = {name: value for name, value in body.items() if name in _SAME}
    if found.get("top_k") == -1:  # the value for "off" of vLLM and smg
        found["top_k"] = 0
    if (seed := body.get("seed")) is not None:
        found["seed"] = as_integer("seed", seed) % 2**64  # OpenAI allows negative seeds
    lengths = {name: body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}
    if len(set(map(str, lengths.values()))) > 1:
        raise ValueError("max_tokens and max_completion_tokens differ")
    for length in lengths.values():
        found["max_tokens"] = length
    found["logprobs"] = _chat_logprobs(body) if kind == "chat" else body.get("logprobs")
    found["structured_output"] = read_response_format(body.get("response_format"))
    return found


def _chat_logprobs(body: Mapping[str, object]) -> int | None:
    top = body.get("top_logprobs")
    if as_bool("logprobs", body.get("logprobs", False)):
        return 0 if top is None else as_integer("top_logprobs", top)
    if top is not None:
        raise ValueError("top_logprobs needs logprobs: true")
    return None
