"""Conversion of prompts, as users write them, to messages."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex

from pdserve.building import build
from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2

# (role, content) or {"role": ..., "content": ...}
Turn = tuple[str, str] | Mapping[str, str]
Messages = Sequence[Turn]
Prompt = str | Messages | Sequence[int]
# a message, or the values of its fields
Sampling = inference_pb2.SamplingParams | Mapping[str, object]


def make_request(
    prompt: Prompt, sampling: Sampling | None, request_id: str
) -> inference_pb2.GenerateRequest:
    """Return the message for a text, a chat or token ids. Raises InvalidRequestError."""
    values = {"request_id": request_id, "sampling": sampling, **_prompt_values(prompt)}
    return build(inference_pb2.GenerateRequest, values)


def make_stream_request(
    prompt: Prompt,
    sampling: Sampling | None,
    request_id: str,
    cache_salt: str,
    priority: int,
    *,
    resumable: bool,
) -> inference_pb2.GenerateRequest:
    """Return the message with all options. A resumable request without an id gets one.

    Raises InvalidRequestError.
    """
    if resumable and not request_id:
        request_id = secrets.token_hex(8)
    request = make_request(prompt, sampling, request_id)
    options = {"cache_salt": cache_salt, "priority": priority, "resumable": resumable}
    request.MergeFrom(build(inference_pb2.GenerateRequest, options))
    return request


def make_tokenize_request(prompt: str | Messages) -> inference_pb2.TokenizeRequest:
    """Return the message that asks for a prompt's tokens. Raises InvalidRequestError."""
    values = _prompt_values(prompt)
    if "tokens" in values:
        raise InvalidRequestError("is tokens already; give a text or a chat", field="prompt")
    return build(inference_pb2.TokenizeRequest, values)


def _prompt_values(prompt: object) -> dict[str, object]:
    """Return the field that holds a prompt, with its value."""
    if isinstance(prompt, str):
        return {"text": prompt}
    if isinstance(prompt, bytes | Mapping) or not isinstance(prompt, Iterable):
        message = f"is no text, list of turns or token ids, but {type(prompt).__name__}"
        raise InvalidRequestError(message, field="prompt")
    parts = list(prompt)
    if not parts or isinstance(parts[0], SupportsIndex):
        tokens = build(inference_pb2.TokenPrompt, {"token_ids": parts}, "tokens.")
        return {"tokens": tokens}
    messages = [_to_message(number, part) for number, part in enumerate(parts)]
    return {"chat": inference_pb2.ChatPrompt(messages=messages)}


def _to_message(number: int, turn: object) -> inference_pb2.ChatMessage:
    path = f"chat.messages[{number}]"
    if isinstance(turn, Mapping):
        return build(inference_pb2.ChatMessage, turn, f"{path}.")
    if not isinstance(turn, tuple | list) or len(turn) != 2:
        raise InvalidRequestError("is no (role, content) and no mapping", field=path)
    role, content = turn
    return build(inference_pb2.ChatMessage, {"role": role, "content": content}, f"{path}.")
