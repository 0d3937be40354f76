"""Who may call: a check at the start of every call, in one interceptor for all services of a server."""

import hmac
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from common.rpc.status import to_status
from pdserve.errors import Reason, RequestError, UnauthenticatedError

_SCHEME = "bearer "

Context = grpc.aio.ServicerContext[Any, Any]
# Gets the method's full name; raises the RequestError that ends the call.
Check = Callable[[str, Context], None]

_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Runs `check` before the handler and in its task, so that it sees what the check sets there.

    It runs inside the handler, because only there the peer's certificate is known.
    """

    def __init__(self, check: Check) -> None:
        self._check = check

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method
            return None
        behaviour = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        guard = self._stream if inspect.isasyncgenfunction(behaviour) else self._call
        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        return make(
            guard(handler_call_details.method, behaviour),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _call(self, method: str, behaviour: Callable[..., Awaitable[object]]) -> Any:
        async def guarded(request: object, context: Context) -> object:
            await self._admit(method, context)
            return await behaviour(request, context)

        return guarded

    def _stream(self, method: str, behaviour: Callable[..., Any]) -> Any:
        async def guarded(request: object, context: Context) -> AsyncIterator[object]:
            await self._admit(method, context)
            async with aclosing(behaviour(request, context)) as messages:
                async for message in messages:
                    yield message

        return guarded

    async def _admit(self, method: str, context: Context) -> None:
        try:
            self._check(method, context)
        except RequestError as error:
            await context.abort_with_status(to_status(error))


def bearer_token(context: Context) -> bytes | None:
    """The token of `authorization: Bearer TOKEN`; None without that header."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            is_bearer = text[: len(_SCHEME)].lower() == _SCHEME
            return text[len(_SCHEME) :].strip().encode() if is_bearer else b""
    return None


def bearer_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that `bearer_token` reads; none for an empty token."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def one_token(token: str) -> Check:
    """A check that lets in whoever has this token, compared in constant time."""

    def check(method: str, context: Context) -> None:
        given = bearer_token(context)
        if given is None:
            raise UnauthenticatedError(
                f"{method} needs the deployment's token", reason=Reason.CREDENTIALS_MISSING
            )
        if not hmac.compare_digest(given, token.encode()):
            raise UnauthenticatedError("this is not the deployment's token")

    return check
