"""Calls of the client without an event loop; `pdserve.calls` has the same for asyncio.

Generated from pdserve/calls.py by `make sync-client`; edit that file, not this one.

1. A call goes to the present router. When that is out of reach, or shuts down, and nothing of the
   answer has come, it goes to the next one.
2. A resumable request whose stream breaks is read on at the same router, or goes on at another one.
   That holds before its first message too.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TypeVar

import grpc

from pdserve.building import to_seconds
from pdserve.connection import Certificate, bearer, credentials, options
from pdserve.errors import Reason, RequestError, UnavailableError
from pdserve.failover import Deadline, Resumption, Routers, can_go_elsewhere, split_addresses
from pdserve.statuses import to_error
from pdserve.v1 import admin_pb2_grpc, inference_pb2, inference_pb2_grpc

S = TypeVar("S")
T = TypeVar("T")
_ANSWER_WITHIN_S = 30.0


class Router:
    """Channel to one router, and its services."""

    def __init__(self, channel: "grpc.Channel") -> None:
        self.channel = channel
        self.inference = inference_pb2_grpc.InferenceStub(channel)
        self.admin = admin_pb2_grpc.AdminStub(channel)


class Calls:
    """Makes calls to one of several routers, with one caller's credentials."""

    def __init__(
        self,
        address: str | Sequence[str],
        token: str | None,
        root_certificates: bytes | None,
        client_certificate: Certificate | None,
        *,
        retries: bool,
    ) -> None:
        addresses = split_addresses(address)
        arguments = options(retries=retries, has_others=len(addresses) > 1)
        secure = credentials(root_certificates, client_certificate)
        self._routers = Routers(
            [
                Router(
                    grpc.insecure_channel(address, options=arguments)
                    if secure is None
                    else grpc.secure_channel(address, secure, options=arguments)
                )
                for address in addresses
            ]
        )
        self._metadata = bearer(token)
        self._retries = retries
        self._is_closed = False

    def close(self) -> None:
        """Disconnect; what still streams is cancelled."""
        self._is_closed = True
        for router in self._routers.members:
            router.channel.close()

    def ask(
        self,
        method: Callable[[Router], Callable[..., T]],
        request: object,
        timeout: float,
    ) -> T:
        """Return a call's answer. Raises the typed error of its status."""
        deadline = self._begin(timeout)
        failure: RequestError = UnavailableError("there is no router")
        for router in self._routers.in_turn():
            try:
                call = method(router)
                answer = call(request, timeout=deadline.left_s, metadata=self._metadata)
                self._routers.has_answered = True
                return answer
            except grpc.RpcError as error:
                failure, failure.__cause__ = to_error(error), error
                if not can_go_elsewhere(failure):
                    break
        raise failure

    def ask_once(
        self,
        method: Callable[[Router], Callable[..., T]],
        request: object,
        timeout: float,
    ) -> T:
        """Return the answer to a change, which is asked of one router only. Raises as `ask` does."""
        deadline = self._begin(timeout)
        call = method(self._settle(deadline))
        try:
            return call(request, timeout=deadline.left_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise to_error(error) from error

    def receive_once(
        self,
        method: "Callable[[Router], grpc.UnaryStreamMultiCallable[S, T]]",
        request: S,
        timeout: float,
    ) -> Generator[T]:
        """Yield the steps of a change, which is asked of one router only. Raises as `ask` does."""
        deadline = self._begin(timeout)
        router = self._settle(deadline)
        stream = self._read(method(router), request, deadline)
        with closing(stream):
            yield from stream

    def generate(
        self, request: inference_pb2.GenerateRequest, timeout: float | None
    ) -> Generator[inference_pb2.GenerateResponse]:
        """Yield an answer; one that is resumable goes on when its stream breaks."""
        deadline = self._begin(timeout)
        answer = Resumption(request, self._routers, is_on=self._retries)
        while True:
            method = answer.router.inference.Generate
            try:
                stream = self._read(method, answer.request, deadline, answer.metadata)
                with closing(stream):
                    for response in stream:
                        answer.note(response)
                        yield response
                return
            except RequestError as error:
                pause_s = answer.recover(error)
            if pause_s is None:
                return
            time.sleep(pause_s)
            self._check_open()

    def _begin(self, timeout: float | None) -> Deadline:
        """Return the deadline of a call. Raises RequestError if it cannot begin."""
        self._check_open()
        return Deadline(None if timeout is None else to_seconds("timeout", timeout))

    def _check_open(self) -> None:
        if self._is_closed:
            message = "the client is closed"
            raise UnavailableError(message, reason=Reason.ROUTER_UNREACHABLE)

    def _settle(self, deadline: Deadline) -> Router:
        """Return a router that answers, where there are several."""
        if len(self._routers.members) > 1:
            asked = inference_pb2.ListModelsRequest()
            within_s = min(deadline.left_s or _ANSWER_WITHIN_S, _ANSWER_WITHIN_S)
            self.ask(lambda router: router.inference.ListModels, asked, within_s)
        return self._routers.present

    def _read(
        self,
        method: "grpc.UnaryStreamMultiCallable[S, T]",
        request: S,
        deadline: Deadline,
        more: tuple[tuple[str, str], ...] = (),
    ) -> Generator[T]:
        metadata = (*self._metadata, *more)
        call = method(request, timeout=deadline.left_s, metadata=metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise to_error(error) from error
        finally:
            call.cancel()
