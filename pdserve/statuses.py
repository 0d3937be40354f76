"""Conversion of gRPC statuses to the typed errors that they stand for."""

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from pdserve.errors import (
    AbortedError,
    DuplicateRequestError,
    InternalError,
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

# gRPC's own refusals of a message or its metadata, which no retry will change
_TOO_LARGE = ("larger than max", "metadata size exceeds")

_ERRORS: dict[grpc.StatusCode, type[RequestError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: DuplicateRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.CANCELLED: RequestCancelledError,
    grpc.StatusCode.DEADLINE_EXCEEDED: RequestTimeoutError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}


def to_error(error: grpc.RpcError) -> RequestError:
    """Return the typed error that a failed call's status stands for."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    reason, field, retry_after_s = _details(error)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if reason is None and any(text in message for text in _TOO_LARGE):
            return InvalidRequestError(message)
        return OverloadedError(message, retry_after_s=retry_after_s, reason=reason)
    if code is grpc.StatusCode.UNAVAILABLE and reason is None:
        reason = Reason.ROUTER_UNREACHABLE
    kind = _ERRORS.get(code, InternalError)
    return kind(message, reason=reason, field=field)


def _details(error: grpc.RpcError) -> tuple[Reason | None, str | None, float]:
    reason, field, retry_after_s = None, None, 1.0
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # documented to take an RpcError too
        for detail in status.details if status else ():
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason = Reason.parse(info.reason)
                field = info.metadata.get("field")
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    except (ValueError, DecodeError):
        pass  # broken details, of something that is no router of ours: the code says enough
    return reason, field, retry_after_s
