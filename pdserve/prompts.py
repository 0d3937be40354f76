"""Conversion of prompts, as users write them, to messages."""

import secrets
from collections.abc import Mapping, Sequence

from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2

# (role, content) or {"role": ..., "content": ...}
Turn = tuple[str, str] | Mapping[str, str]
Messages = Sequence[Turn]
Prompt = str | Messages | Sequence[int]


def make_request(
    prompt: Prompt, sampling: inference_pb2.SamplingParams | None, request_id: str
) -> inference_pb2.GenerateRequest:
    """Return the message for a text, a chat or token ids. Raises InvalidRequestError."""
    request = inference_pb2.GenerateRequest(sampling=sampling)
    try:
        request.request_id = request_id
        _fill_prompt(request, prompt)
    except ValueError as error:  # half a character, or a number that is no uint32
        raise InvalidRequestError(f"the prompt cannot be sent: {error}") from error
    return request


def make_stream_request(
    prompt: Prompt,
    sampling: inference_pb2.SamplingParams | None,
    request_id: str,
    cache_salt: str,
    priority: int,
    *,
    resumable: bool,
) -> inference_pb2.GenerateRequest:
    """Return the message with all options. A resumable request without an id gets one."""
    if resumable and not request_id:
        request_id = secrets.token_hex(8)
    request = make_request(prompt, sampling, request_id)
    request.cache_salt, request.priority, request.resumable = cache_salt, priority, resumable
    return request


def make_tokenize_request(prompt: str | Messages) -> inference_pb2.TokenizeRequest:
    """Return the message that asks for a prompt's tokens. Raises InvalidRequestError."""
    request = make_request(prompt, None, "")
    if request.WhichOneof("prompt") == "chat":
        return inference_pb2.TokenizeRequest(chat=request.chat)
    return inference_pb2.TokenizeRequest(text=request.text)


def _fill_prompt(request: inference_pb2.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
        return
    request.tokens.SetInParent()
    for part in prompt:
        if isinstance(part, int):
            request.tokens.token_ids.append(part)
        else:
            request.chat.messages.append(_to_message(part))


def _to_message(turn: Turn) -> inference_pb2.ChatMessage:
    if isinstance(turn, Mapping):
        return inference_pb2.ChatMessage(**turn)
    role, content = turn
    return inference_pb2.ChatMessage(role=role, content=content)
