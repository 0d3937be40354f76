"""Our errors in OpenAI's form: an HTTP status and `{"error": {message, type, param, code}}`."""

import math
from dataclasses import dataclass

from common.rpc.status import retry_after_s
from pdserve.errors import (
    AbortedError,
    DuplicateRequestError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    Reason,
    RequestCancelledError,
    RequestError,
    RequestTimeoutError,
    UnauthenticatedError,
    UnavailableError,
)
from router.edge.openai.answers import Json

_MAX_MESSAGE_CHARS = 1024
_INVALID = "invalid_request_error"
# status, type and code of each kind of error; the code may be told more exactly by the reason
_KINDS: dict[type[RequestError], tuple[int, str, str]] = {
    InvalidRequestError: (400, _INVALID, "invalid_value"),
    UnauthenticatedError: (401, _INVALID, "invalid_api_key"),
    PermissionDeniedError: (403, "permission_error", "permission_denied"),
    NotFoundError: (404, _INVALID, "not_found"),
    DuplicateRequestError: (409, _INVALID, "duplicate_request_id"),
    PreconditionError: (400, _INVALID, "no_token_left"),
    OverloadedError: (429, "rate_limit_error", "rate_limit_exceeded"),
    # clients try 409, 429 and 5xx again, which this must not be
    AbortedError: (422, "server_error", "poison"),
    RequestCancelledError: (499, "cancelled", "request_cancelled"),
    RequestTimeoutError: (504, "timeout", "deadline_exceeded"),
    UnavailableError: (503, "server_error", "service_unavailable"),
}
_CODES = {
    Reason.CONTEXT_EXCEEDED: "context_length_exceeded",
    Reason.KV_CAPACITY_EXCEEDED: "context_length_exceeded",
    Reason.MODEL_NOT_FOUND: "model_not_found",
    Reason.EMPTY_PROMPT: "empty_prompt",
}


class HttpError(RequestError):
    """A request that fails by its form as HTTP, with a status of its own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message, reason=Reason.INVALID_FIELD)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The answer that stands for an error."""

    status: int
    body: Json
    headers: dict[str, str]


def to_answer(error: RequestError) -> ErrorAnswer:
    """Return the status, body and headers of an error."""
    status, kind, code = _KINDS.get(type(error), (500, "server_error", "internal_error"))
    if isinstance(error, HttpError):
        status, kind, code = error.status, _INVALID, error.code
    param = param_of(error.field)
    message = error.message[:_MAX_MESSAGE_CHARS]
    shown = f"{param}: {message}" if param else message
    inner = {
        "message": shown,
        "type": kind,
        "param": param,
        "code": _CODES.get(error.reason, code),
    }
    return ErrorAnswer(status, {"error": inner}, _headers(error))


def param_of(field: str | None) -> str | None:
    """Return the name that OpenAI's API has for a field of pdserve.v1."""
    if field is None:
        return None
    if field.startswith("sampling.structured_output"):
        return "response_format"
    return field.removeprefix("sampling.")


def _headers(error: RequestError) -> dict[str, str]:
    if isinstance(error, UnauthenticatedError):
        return {"WWW-Authenticate": "Bearer"}
    delay_s = retry_after_s(error)
    return {} if delay_s is None else {"Retry-After": str(max(1, math.ceil(delay_s)))}
