"""The interceptor before all services of a server: it checks the caller, then parses the request."""

import asyncio
import hmac
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from common.rpc.bearer import token_of
from common.rpc.status import to_status
from pdserve.errors import InvalidRequestError, Reason, RequestError, UnauthenticatedError

Context = grpc.aio.ServicerContext[Any, Any]
# Takes the method's full name; raises the RequestError that ends the call.
Check = Callable[[str, Context], None]
_Parse = Callable[[bytes], object]

_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


@dataclass(eq=False, slots=True)
class _Call:
    """A call that was let in; `refusal` is the reason why it must end, if there is one."""

    method: str
    context: Context
    task: "asyncio.Task[Any] | None"
    refusal: RequestError | None = None


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Runs `check` in the handler's task, where its context variables reach the handler.

    The peer's certificate is known only there. The request is parsed behind the check: a stranger's message
    is never parsed. Bytes that are no message end as INVALID_ARGUMENT, where gRPC would say UNKNOWN. Streams
    of requests are parsed by gRPC.
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._calls: set[_Call] = set()

    def check_again(self) -> None:
        """Check every running call again; end those that would be refused now, with that refusal."""
        for call in tuple(self._calls):
            try:
                copy_context().run(self._check, call.method, call.context)
            except RequestError as error:
                if call.refusal is None and call.task is not None:
                    call.refusal = error
                    call.task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler with the check before it (grpc.aio.ServerInterceptor)."""
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
        parse = handler.request_deserializer
        ours, grpcs = (None, parse) if handler.request_streaming else (parse, None)
        guarded = guard(handler_call_details.method, behaviour, ours)
        return make(guarded, grpcs, handler.response_serializer)

    def _call(
        self, method: str, behaviour: Callable[..., Awaitable[object]], parse: _Parse | None
    ) -> Any:
        async def guarded(request: Any, context: Context) -> object:
            message = await self._admit(method, request, parse, context)
            async with self._watched(method, context):
                return await behaviour(message, context)

        return guarded

    def _stream(self, method: str, behaviour: Callable[..., Any], parse: _Parse | None) -> Any:
        async def guarded(request: Any, context: Context) -> AsyncIterator[object]:
            message = await self._admit(method, request, parse, context)
            async with (
                self._watched(method, context),
                aclosing(behaviour(message, context)) as messages,
            ):
                async for answer in messages:
                    yield answer

        return guarded

    @asynccontextmanager
    async def _watched(self, method: str, context: Context) -> AsyncIterator[None]:
        call = _Call(method, context, asyncio.current_task())
        self._calls.add(call)
        try:
            yield
        except asyncio.CancelledError:
            if call.refusal is None or call.task is None:
                raise
            call.task.uncancel()
            await context.abort_with_status(to_status(call.refusal))
        finally:
            self._calls.discard(call)

    async def _admit(
        self, method: str, request: Any, parse: _Parse | None, context: Context
    ) -> object:
        try:
            self._check(method, context)
            return parse(request) if parse else request
        except DecodeError:
            problem = f"what came is no request of {method}, or one of its texts is not UTF-8"
            await context.abort_with_status(to_status(InvalidRequestError(problem)))
        except RequestError as error:
            await context.abort_with_status(to_status(error))


def let_all_in(method: str, context: Context) -> None:
    """Let every caller in: a check for servers without authentication."""


def bearer_token(context: Context) -> bytes | None:
    """Return the token of `authorization: Bearer TOKEN`; None without that key, b"" for others."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return token_of(value.decode("latin-1") if isinstance(value, bytes) else value) or b""
    return None


def one_token(token: str) -> Check:
    """Return a check that lets callers with this token in; it compares in constant time."""

    def check(method: str, context: Context) -> None:
        given = bearer_token(context)
        if given is None:
            raise UnauthenticatedError(
                f"{method} needs the deployment's token", reason=Reason.CREDENTIALS_MISSING
            )
        if not hmac.compare_digest(given, token.encode()):
            raise UnauthenticatedError("this is not the deployment's token")

    return check
