import asyncio
import re
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2

from common.rpc.status import to_status
from pdserve.client import AsyncClient
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
from pdserve.prompts import make_request
from pdserve.statuses import to_error
from pdserve.v1 import inference_pb2
from tests.patience import WITHIN_S

ERRORS_MD = Path(__file__).parents[3] / "docs" / "use" / "errors.md"
KINDS: dict[str, type[RequestError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "NOT_FOUND": NotFoundError,
    "FAILED_PRECONDITION": PreconditionError,
    "ALREADY_EXISTS": DuplicateRequestError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "ABORTED": AbortedError,
    "CANCELLED": RequestCancelledError,
    "DEADLINE_EXCEEDED": RequestTimeoutError,
    "UNAVAILABLE": UnavailableError,
    "INTERNAL": InternalError,
}
DOCUMENTED = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", ERRORS_MD.read_text(), re.MULTILINE))


def received(status: grpc.Status) -> grpc.aio.AioRpcError:
    """Return the exception that gRPC raises at the client for a status of the router's."""
    trailers = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailers, status.details)


def bare(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    """Return an exception of gRPC's own, without rich details."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_comes_back_as_the_documented_error(reason: Reason) -> None:
    kind = KINDS[DOCUMENTED[reason]]
    if kind is OverloadedError:
        sent: RequestError = OverloadedError("why", retry_after_s=2.5, reason=reason)
    else:
        sent = kind("why", reason=reason)
    error = to_error(received(to_status(sent)))
    assert type(error) is kind
    assert (error.reason, error.message, error.field) == (reason, "why", None)


def test_a_field_and_a_time_to_retry_come_back() -> None:
    sent = InvalidRequestError("not so", field="sampling.stop")
    assert to_error(received(to_status(sent))).field == "sampling.stop"
    overload = to_error(received(to_status(OverloadedError("full", retry_after_s=2.5))))
    assert isinstance(overload, OverloadedError)
    assert overload.retry_after_s == 2.5


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (grpc.StatusCode.CANCELLED, RequestCancelledError, Reason.CANCELLED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, RequestTimeoutError, Reason.DEADLINE_EXCEEDED),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError, Reason.ROUTER_UNREACHABLE),
        (grpc.StatusCode.UNIMPLEMENTED, InternalError, Reason.INTERNAL),
        (grpc.StatusCode.UNKNOWN, InternalError, Reason.INTERNAL),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError, Reason.QUEUE_FULL),
    ],
)
def test_a_status_of_grpc_s_own_is_typed_too(
    code: grpc.StatusCode, kind: type[RequestError], reason: Reason
) -> None:
    error = to_error(bare(code))
    assert type(error) is kind
    assert (error.reason, error.message) == (reason, code.name)


@pytest.mark.parametrize(
    "text",
    [
        "Received message larger than max (5000000 vs. 4194304)",
        "received metadata size exceeds hard limit (value length 20007)",
    ],
)
def test_a_message_too_large_is_no_overload_that_a_retry_would_cure(text: str) -> None:
    assert type(to_error(bare(grpc.StatusCode.RESOURCE_EXHAUSTED, text))) is InvalidRequestError


@pytest.mark.parametrize("details", [b"\xff", status_pb2.Status(code=5).SerializeToString()])
def test_broken_details_leave_the_status_its_meaning(details: bytes) -> None:
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", details))
    sent = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, "gone")
    error = to_error(sent)
    assert (type(error), error.message) == (NotFoundError, "gone")


def test_a_prompt_of_each_kind_fills_its_own_field() -> None:
    assert make_request("text", None, "").text == "text"
    assert make_request("", None, "").WhichOneof("prompt") == "text"
    assert list(make_request([1, 2], None, "").tokens.token_ids) == [1, 2]
    assert make_request([], None, "").WhichOneof("prompt") == "tokens"
    chat = make_request([("system", "s"), ("user", "u")], None, "me")
    assert [(m.role, m.content) for m in chat.chat.messages] == [("system", "s"), ("user", "u")]
    assert chat.request_id == "me"
    sampling = inference_pb2.SamplingParams(seed=0)
    assert make_request("x", sampling, "").sampling.HasField("seed")


async def test_a_router_that_is_not_there_is_unavailable() -> None:
    async with AsyncClient("127.0.0.1:1") as client, asyncio.timeout(WITHIN_S):
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
            await anext(client.stream("x"))
        with pytest.raises(UnavailableError):
            await client.cancel("r")
        with pytest.raises(UnavailableError):
            await client.status()
