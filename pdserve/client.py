"""An asyncio client for a router. Small on purpose: one call, typed errors."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from pdserve.channel import open_channel
from pdserve.errors import (
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
from pdserve.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

Messages = Sequence[tuple[str, str]]

# beside the time for draining: starts, flips and stops, each of which the router limits itself
_SCALE_WITHIN_S = 900.0

_TOO_LARGE = "larger than max"

_ERRORS: dict[grpc.StatusCode, type[RequestError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: DuplicateRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.CANCELLED: RequestCancelledError,
    grpc.StatusCode.DEADLINE_EXCEEDED: RequestTimeoutError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}


class AsyncClient:
    """Talks to one router. Use as an async context manager.

    Every call raises a RequestError of `pdserve.errors` when the router refuses or fails it.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        root_certificates: bytes | None = None,
        client_certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        """`token` names the tenant; PEM roots, or a certificate (key, chain) of our own, mean TLS."""
        self._channel = open_channel(address, root_certificates, client_certificate)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._inference = inference_pb2_grpc.InferenceStub(self._channel)
        self._admin = admin_pb2_grpc.AdminStub(self._channel)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def generate(
        self,
        prompt: str | Messages | Sequence[int],
        sampling: inference_pb2.SamplingParams | None = None,
        *,
        request_id: str = "",
        cache_salt: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """Stream a continuation of a text, of a chat [(role, content), ...] or of token ids.

        Requests of different `cache_salt` share no cached KV; those of lower `priority` go first.
        """
        request = make_request(prompt, sampling, request_id)
        request.cache_salt, request.priority = cache_salt, priority
        stream = self.send(request, timeout_s=timeout_s)
        async with aclosing(stream):
            async for response in stream:
                yield response

    async def send(
        self, request: inference_pb2.GenerateRequest, *, timeout_s: float | None = None
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """Send a request message as it stands and stream the responses."""
        call = self._inference.Generate(request, timeout=timeout_s, metadata=self._metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()

    async def cancel(self, request_id: str) -> None:
        """Stop a request."""
        try:
            await self._inference.Cancel(
                inference_pb2.CancelRequest(request_id=request_id), metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error

    async def explain(
        self, request_id: str, timeout_s: float = 5.0
    ) -> inference_pb2.ExplainResponse:
        """Why a request went where it did."""
        request = inference_pb2.ExplainRequest(request_id=request_id)
        try:
            return await self._inference.Explain(
                request, timeout=timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error

    async def blocks(self, timeout_s: float = 5.0) -> admin_pb2.BlocksResponse:
        """Who holds which worker's KV blocks, and why."""
        try:
            return await self._admin.Blocks(
                admin_pb2.BlocksRequest(), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error

    async def status(self, timeout_s: float = 5.0) -> admin_pb2.StatusResponse:
        """The router's and its workers' state."""
        try:
            return await self._admin.Status(
                admin_pb2.StatusRequest(), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error

    async def scale(
        self,
        prefill: int | None = None,
        decode: int | None = None,
        *,
        drain_timeout_s: float = 300.0,
    ) -> AsyncGenerator[admin_pb2.ScaleResponse]:
        """Change how many workers of each role there are (None: as many as now); yields what is done.

        It goes on when the iterator is left. Other requests are served meanwhile.
        """
        request = admin_pb2.ScaleRequest(drain_timeout_us=_to_us(drain_timeout_s))
        if prefill is not None:
            request.prefill = prefill
        if decode is not None:
            request.decode = decode
        timeout_s = drain_timeout_s + _SCALE_WITHIN_S
        call = self._admin.Scale(request, timeout=timeout_s, metadata=self._metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()

    async def drain(self, worker: str, *, timeout_s: float = 300.0) -> None:
        """Let a worker end its work and leave; returns when it has."""
        request = admin_pb2.DrainRequest(worker=worker, timeout_us=_to_us(timeout_s))
        try:
            await self._admin.Drain(
                request, timeout=timeout_s + _SCALE_WITHIN_S, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from error


def _to_us(seconds: float) -> int:
    return max(round(seconds * 1e6), 1)  # 0 would be the router's default


def make_request(
    prompt: str | Messages | Sequence[int],
    sampling: inference_pb2.SamplingParams | None,
    request_id: str,
) -> inference_pb2.GenerateRequest:
    """The message for a prompt of any of the three kinds. Raises InvalidRequestError."""
    request = inference_pb2.GenerateRequest(sampling=sampling)
    try:
        request.request_id = request_id
        _fill_prompt(request, prompt)
    except ValueError as error:  # half a character, or a number that is no uint32
        raise InvalidRequestError(f"the prompt cannot be sent: {error}") from error
    return request


def _fill_prompt(
    request: inference_pb2.GenerateRequest, prompt: str | Messages | Sequence[int]
) -> None:
    if isinstance(prompt, str):
        request.text = prompt
        return
    request.tokens.SetInParent()
    for part in prompt:
        if isinstance(part, int):
            request.tokens.token_ids.append(part)
        else:
            role, content = part
            request.chat.messages.add(role=role, content=content)


def to_error(error: grpc.aio.AioRpcError) -> RequestError:
    """The typed error that a gRPC status stands for."""
    message = error.details() or error.code().name
    reason, field, retry_after_s = _details(error)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if (
            reason is None and _TOO_LARGE in message
        ):  # gRPC's own refusal, which no retry will change
            return InvalidRequestError(message)
        return OverloadedError(message, retry_after_s=retry_after_s)
    kind = _ERRORS.get(error.code(), InternalError)
    return kind(message, reason=reason, field=field)


def _details(error: grpc.aio.AioRpcError) -> tuple[Reason | None, str | None, float]:
    reason, field, retry_after_s = None, None, 1.0
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # documented to take an RpcError too
    for detail in status.details if status else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = Reason.parse(info.reason)
            field = info.metadata.get("field")
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return reason, field, retry_after_s
