"""Answers in OpenAI's batch output form, one line each.

A line is {"id", "custom_id", "response", "error"}.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cli.batch.openai_lines import OpenAiCall
from pdserve.completion import Completion, Continuation
from pdserve.errors import (
    DuplicateRequestError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    RequestError,
    RequestTimeoutError,
    UnauthenticatedError,
    UnavailableError,
)
from pdserve.v1 import inference_pb2

_STATUSES: dict[type[RequestError], int] = {
    InvalidRequestError: 400,
    PreconditionError: 400,
    UnauthenticatedError: 401,
    PermissionDeniedError: 403,
    NotFoundError: 404,
    RequestTimeoutError: 408,
    DuplicateRequestError: 409,
    OverloadedError: 429,
    UnavailableError: 503,
}
_SERVERS_FAULT = 500


def describe_completion(call: OpenAiCall, model: str, completion: Completion) -> str:
    """Return the output line of a request that was answered."""
    is_chat = call.kind == "chat"
    describe = _chat_choice if is_chat else _text_choice
    body = {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{completion.request_id}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(datetime.now(UTC).timestamp()),
        "model": model,
        "choices": [
            {"index": index, "finish_reason": choice.finish_reason, **describe(choice)}
            for index, choice in enumerate(completion.choices)
        ],
        "usage": _usage(completion.choices),
    }
    return _line(call, completion.request_id, 200, body)


def describe_error(call: OpenAiCall, error: RequestError) -> str:
    """Return the output line of a request that was refused or failed."""
    status = _STATUSES.get(type(error), _SERVERS_FAULT)
    kind = "invalid_request_error" if status < 429 else "server_error"
    body = {
        "error": {
            "message": error.message,
            "type": "rate_limit_error" if status == 429 else kind,
            "param": error.field,
            "code": error.reason,
        }
    }
    return _line(call, "", status, body)


def _line(call: OpenAiCall, request_id: str, status: int, body: Mapping[str, object]) -> str:
    response = {"status_code": status, "request_id": request_id, "body": body}
    line = {
        "id": f"batch_req_{request_id or secrets.token_hex(8)}",
        "custom_id": call.custom_id,
        "response": response,
        "error": None,  # used only for requests without any response
    }
    return json.dumps(line, ensure_ascii=False)


def _chat_choice(choice: Continuation) -> dict[str, object]:
    message = {"role": "assistant", "content": choice.text, "refusal": None}
    entries = [
        _chat_token(token_id, entry.logprob, entry)
        for token_id, entry in zip(choice.token_ids, choice.logprobs, strict=False)
    ]
    logprobs = {"content": entries, "refusal": None} if entries else None
    return {"message": message, "logprobs": logprobs}


def _chat_token(
    token_id: int, logprob: float, entry: inference_pb2.TokenLogprobs
) -> dict[str, object]:
    return {
        "token": _name(token_id),
        "logprob": logprob,
        "bytes": None,
        "top_logprobs": [
            {"token": _name(top_id), "logprob": top_logprob, "bytes": None}
            for top_id, top_logprob in zip(entry.top_token_ids, entry.top_logprobs, strict=True)
        ],
    }


def _text_choice(choice: Continuation) -> dict[str, object]:
    logprobs: dict[str, object] | None = None
    if choice.logprobs:
        logprobs = {
            "tokens": [_name(token_id) for token_id in choice.token_ids],
            "token_logprobs": [entry.logprob for entry in choice.logprobs],
            "top_logprobs": [
                dict(zip(map(_name, entry.top_token_ids), entry.top_logprobs, strict=True))
                for entry in choice.logprobs
            ],
        }
    return {"text": choice.text, "logprobs": logprobs}


def _usage(choices: Sequence[Continuation]) -> dict[str, object]:
    """Sum the usage of all choices; the prompt counts once, since it is computed once."""
    prompt = choices[0].finished.usage
    completion_tokens = sum(choice.finished.usage.completion_tokens for choice in choices)
    return {
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": prompt.cached_tokens},
    }


def _name(token_id: int) -> str:
    """Name a token as vLLM names one without text; only the router has a detokenizer."""
    return f"token_id:{token_id}"
