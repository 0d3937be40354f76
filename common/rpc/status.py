"""Conversion of our errors to google.rpc.Status, and of workers' failures to our errors."""

from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

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

DOMAIN = "pdserve"
# A message travels three times, percent-encoded and twice in base64; clients drop statuses over 8 KiB.
_MAX_MESSAGE_BYTES = 1024
# Trailer that gRPC clients with retries obey: milliseconds to wait, or "-1" for no retry.
_PUSHBACK = "grpc-retry-pushback-ms"
_MAX_PUSHBACK_S = 2.0  # beyond, the caller should rather see the refusal
_IN_VAIN = {Reason.DEADLINE_UNREACHABLE, Reason.SLOW_CONSUMER}  # to try again within the same call
_UNAVAILABLE_RETRY_S = 1.0  # about what a link to a restarted worker takes
_CODES: dict[type[RequestError], int] = {
    InvalidRequestError: code_pb2.INVALID_ARGUMENT,
    UnauthenticatedError: code_pb2.UNAUTHENTICATED,
    PermissionDeniedError: code_pb2.PERMISSION_DENIED,
    NotFoundError: code_pb2.NOT_FOUND,
    DuplicateRequestError: code_pb2.ALREADY_EXISTS,
    PreconditionError: code_pb2.FAILED_PRECONDITION,
    OverloadedError: code_pb2.RESOURCE_EXHAUSTED,
    AbortedError: code_pb2.ABORTED,
    RequestCancelledError: code_pb2.CANCELLED,
    RequestTimeoutError: code_pb2.DEADLINE_EXCEEDED,
    UnavailableError: code_pb2.UNAVAILABLE,
}
_BY_REASON: dict[Reason, type[RequestError]] = {
    Reason.CANCELLED: RequestCancelledError,
    Reason.DEADLINE_EXCEEDED: RequestTimeoutError,
    Reason.NO_WORKER: UnavailableError,
    Reason.WORKER_LOST: UnavailableError,
    Reason.SHUTTING_DOWN: UnavailableError,
    Reason.POISON: AbortedError,
    Reason.KV_CAPACITY_EXCEEDED: InvalidRequestError,
    Reason.EMPTY_PROMPT: InvalidRequestError,
    Reason.TOKEN_OUT_OF_VOCABULARY: InvalidRequestError,
    Reason.CONTEXT_EXCEEDED: InvalidRequestError,
    Reason.INVALID_FIELD: InvalidRequestError,
    Reason.NO_TOKEN_LEFT: PreconditionError,
}
# fields that the client can change, for failures that only a worker can find
_FIELDS = {
    Reason.KV_CAPACITY_EXCEEDED: "sampling.max_tokens",
    Reason.CONTEXT_EXCEEDED: "sampling.max_tokens",
}


@dataclass(frozen=True)
class _Refusal(grpc.Status):
    """A status with more trailing metadata than the library makes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def to_status(error: RequestError) -> grpc.Status:
    """Return an error's gRPC status with ErrorInfo, BadRequest and RetryInfo; cut a long message."""
    shown = _shorten(error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    details = [info]
    if error.field:
        info.metadata["field"] = error.field
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=shown
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    delay_s = retry_after_s(error)
    if delay_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(delay_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for target, detail in zip(packed, details, strict=True):
        target.Pack(detail)
    code = _CODES.get(type(error), code_pb2.INTERNAL)
    message = f"{error.field}: {shown}" if error.field else shown
    status = rpc_status.to_status(status_pb2.Status(code=code, message=message, details=packed))
    return status if delay_s is None else _push_back(status, error.reason, delay_s)


def _push_back(status: grpc.Status, reason: Reason, delay_s: float) -> grpc.Status:
    is_soon = delay_s <= _MAX_PUSHBACK_S and reason not in _IN_VAIN
    pushback = str(round(delay_s * 1000)) if is_soon else "-1"
    return _Refusal(status.code, status.details, (*status.trailing_metadata, (_PUSHBACK, pushback)))


def _shorten(message: str) -> str:
    """Return the beginning of a message, which may quote a client's input of any length."""
    start = message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore")
    return message if start == message else f"{start}..."


def retry_after_s(error: RequestError) -> float | None:
    """Return the seconds after which a refused client may come again; None where that is no help."""
    if isinstance(error, OverloadedError):
        return error.retry_after_s
    return _UNAVAILABLE_RETRY_S if isinstance(error, UnavailableError) else None


def error_from_reason(reason: Reason, message: str) -> RequestError:
    """Return the error that a worker's failure report stands for."""
    if reason is Reason.SLOW_CONSUMER:
        return OverloadedError(message, retry_after_s=1.0, reason=reason)
    if reason in _BY_REASON:
        return _BY_REASON[reason](message, reason=reason, field=_FIELDS.get(reason))
    return RequestError(message, reason=reason)
