import pytest

from pdserve.errors import (
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    Reason,
    RequestError,
    RequestTimeoutError,
    UnauthenticatedError,
    UnavailableError,
)
from router.edge.openai.errors import HttpError, to_answer

CASES: list[tuple[RequestError, int, str, str | None]] = [
    (InvalidRequestError("x", field="sampling.top_p"), 400, "invalid_value", "top_p"),
    (
        InvalidRequestError("x", reason=Reason.CONTEXT_EXCEEDED, field="sampling.max_tokens"),
        400,
        "context_length_exceeded",
        "max_tokens",
    ),
    (
        InvalidRequestError("x", field="sampling.structured_output.regex"),
        400,
        "invalid_value",
        "response_format",
    ),
    (NotFoundError("x", reason=Reason.MODEL_NOT_FOUND), 404, "model_not_found", None),
    (UnauthenticatedError("x"), 401, "invalid_api_key", None),
    (PermissionDeniedError("x"), 403, "permission_denied", None),
    (PreconditionError("x", reason=Reason.NO_TOKEN_LEFT), 400, "no_token_left", None),
    (OverloadedError("x", retry_after_s=1.2), 429, "rate_limit_exceeded", None),
    (UnavailableError("x"), 503, "service_unavailable", None),
    (RequestTimeoutError("x"), 504, "deadline_exceeded", None),
    (InternalError("x"), 500, "internal_error", None),
    (HttpError(413, "body_too_large", "x"), 413, "body_too_large", None),
]


@pytest.mark.parametrize(("error", "status", "code", "param"), CASES)
def test_an_error_has_its_status_code_and_field(
    error: RequestError, status: int, code: str, param: str | None
) -> None:
    answer = to_answer(error)
    inner = answer.body["error"]
    assert isinstance(inner, dict)
    assert (answer.status, inner["code"], inner["param"]) == (status, code, param)


def test_a_refusal_for_now_says_when_to_come_again_in_whole_seconds() -> None:
    assert to_answer(OverloadedError("x", retry_after_s=1.2)).headers == {"Retry-After": "2"}
    assert to_answer(OverloadedError("x", retry_after_s=0.1)).headers == {"Retry-After": "1"}
    assert "Retry-After" in to_answer(UnavailableError("x")).headers


def test_a_long_message_is_cut() -> None:
    inner = to_answer(InvalidRequestError("x" * 10_000)).body["error"]
    assert isinstance(inner, dict)
    assert len(inner["message"]) == 1024
