import re
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from common.rpc.status import DOMAIN, error_from_reason, to_status
from pdserve.errors import (
    DuplicateRequestError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PreconditionError,
    Reason,
    RequestCancelledError,
    RequestError,
    RequestTimeoutError,
    UnavailableError,
)

ERRORS_MD = Path(__file__).parents[4] / "docs" / "use" / "errors.md"
CODES = {
    InvalidRequestError("m"): grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError("m"): grpc.StatusCode.NOT_FOUND,
    DuplicateRequestError("m"): grpc.StatusCode.ALREADY_EXISTS,
    PreconditionError("m"): grpc.StatusCode.FAILED_PRECONDITION,
    OverloadedError("m", retry_after_s=1.0): grpc.StatusCode.RESOURCE_EXHAUSTED,
    RequestCancelledError("m"): grpc.StatusCode.CANCELLED,
    RequestTimeoutError("m"): grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError("m"): grpc.StatusCode.UNAVAILABLE,
    InternalError("m"): grpc.StatusCode.INTERNAL,
    RequestError("m"): grpc.StatusCode.INTERNAL,
}


def unpack(status: grpc.Status) -> tuple[status_pb2.Status, dict[str, Message]]:
    """Return the rich status in the trailers, and its details by the name of their type."""
    (trailer,) = [
        value for key, value in status.trailing_metadata if key == "grpc-status-details-bin"
    ]
    rich = status_pb2.Status.FromString(trailer)
    found: dict[str, Message] = {}
    for packed in rich.details:
        name = packed.TypeName().rpartition(".")[2]
        detail: Message = getattr(error_details_pb2, name)()
        assert packed.Unpack(detail)
        found[name] = detail
    return rich, found


@pytest.mark.parametrize("error", CODES, ids=lambda error: type(error).__name__)
def test_each_error_has_its_code_and_its_reason(error: RequestError) -> None:
    status = to_status(error)
    rich, details = unpack(status)
    assert status.code is CODES[error]
    assert rich.code == CODES[error].value[0]
    assert (status.details, rich.message) == ("m", "m")
    assert details["ErrorInfo"] == error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)


def test_a_field_is_named_in_message_info_and_violation() -> None:
    error = InvalidRequestError(
        "too long", reason=Reason.CONTEXT_EXCEEDED, field="sampling.max_tokens"
    )
    status = to_status(error)
    _, details = unpack(status)
    assert status.details == "sampling.max_tokens: too long"
    info = details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.metadata["field"]) == ("CONTEXT_EXCEEDED", "sampling.max_tokens")
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="sampling.max_tokens", description="too long"
    )
    assert details["BadRequest"] == error_details_pb2.BadRequest(field_violations=[violation])


@pytest.mark.parametrize("quoted", ["x", "é", "\u20ac", "\U0001f9c2", "\x00"])
def test_a_long_message_is_cut_so_that_the_status_arrives(quoted: str) -> None:
    """Clients drop a status over 8 KiB; its message travels percent-encoded and twice in base64."""
    status = to_status(NotFoundError("no " + quoted * 10**6, field="request_id"))
    rich, details = unpack(status)
    assert set(details) == {"ErrorInfo", "BadRequest"}
    assert str(status.details).startswith(f"request_id: no {quoted}")
    assert str(status.details).endswith(f"{quoted}...")
    encoded = 3 * len(str(status.details).encode()) + 4 * -(-rich.ByteSize() // 3)
    assert encoded < 8000


def test_what_may_pass_says_when_to_come_back_and_nothing_else_does() -> None:
    _, details = unpack(to_status(OverloadedError("full", retry_after_s=0.25)))
    retry = details["RetryInfo"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 250
    _, details = unpack(to_status(UnavailableError("gone")))
    assert set(details) == {"ErrorInfo", "RetryInfo"}
    for error in CODES:
        if not isinstance(error, OverloadedError | UnavailableError):
            assert set(unpack(to_status(error))[1]) == {"ErrorInfo"}


@pytest.mark.parametrize("reason", Reason)
def test_a_worker_s_reason_is_kept_whatever_it_is(reason: Reason) -> None:
    error = error_from_reason(reason, "the worker's words")
    assert (error.reason, error.message) == (reason, "the worker's words")
    _, details = unpack(to_status(error))
    info = details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.reason == reason


# what workers report; the other reasons are the router's own
@pytest.mark.parametrize(
    "reason",
    [
        Reason.CANCELLED,
        Reason.DEADLINE_EXCEEDED,
        Reason.NO_WORKER,
        Reason.WORKER_LOST,
        Reason.SHUTTING_DOWN,
        Reason.KV_CAPACITY_EXCEEDED,
        Reason.EMPTY_PROMPT,
        Reason.CONTEXT_EXCEEDED,
        Reason.TOKEN_OUT_OF_VOCABULARY,
        Reason.INVALID_FIELD,
        Reason.NAN_LOGITS,
        Reason.STEP_FAILED,
        Reason.NO_TOKEN_LEFT,
        Reason.INTERNAL,
    ],
)
def test_a_worker_s_failure_has_the_code_that_the_documentation_gives(reason: Reason) -> None:
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", ERRORS_MD.read_text(), re.MULTILINE))
    status = to_status(error_from_reason(reason, "m"))
    assert status.code.name == documented[reason]
