"""Retries of the clients: the calls that are retried, and their data; against failing servers."""

import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from itertools import pairwise

import grpc
import pytest

from common.rpc.status import to_status
from pdserve.client import AsyncClient
from pdserve.errors import OverloadedError, Reason, RequestError, UnavailableError
from pdserve.sync_client import Client
from pdserve.v1 import inference_pb2, inference_pb2_grpc


class Flaky(inference_pb2_grpc.InferenceServicer):
    """Servicer that fails as UNAVAILABLE: each call's first try, or streams after one message."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.metadata: list[dict[str, object]] = []

    def Generate(
        self, request: inference_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[inference_pb2.GenerateResponse]:
        """Answer; the text "late" fails after its first message."""
        if request.text != "late":
            self._fail_once(context)
        self.num_calls += request.text == "late"
        yield inference_pb2.GenerateResponse(text="ok")
        if request.text == "late":
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost in the middle")

    def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: grpc.ServicerContext
    ) -> inference_pb2.TokenizeResponse:
        """Fail once, then answer."""
        self._fail_once(context)
        return inference_pb2.TokenizeResponse(num_tokens=7)

    def _fail_once(self, context: grpc.ServicerContext) -> None:
        self.num_calls += 1
        self.metadata.append(dict(context.invocation_metadata()))
        if self.num_calls % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")


class Refusing(inference_pb2_grpc.InferenceServicer):
    """Servicer that refuses every call, as the router does, and records their times."""

    def __init__(self, error: RequestError) -> None:
        self._error = error
        self.seen: list[float] = []

    def Generate(
        self, request: inference_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[inference_pb2.GenerateResponse]:
        """Refuse the call."""
        self.seen.append(time.monotonic())
        context.abort_with_status(to_status(self._error))


@contextmanager
def refusing(error: RequestError) -> Iterator[tuple[str, list[float]]]:
    servicer = Refusing(error)  # type: ignore[abstract]
    with served(servicer) as address:
        yield address, servicer.seen


@contextmanager
def flaky() -> Iterator[tuple[str, Flaky]]:
    servicer = Flaky()  # type: ignore[abstract]  # the others are not called
    with served(servicer) as address:
        yield address, servicer


@contextmanager
def served(servicer: inference_pb2_grpc.InferenceServicer) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    inference_pb2_grpc.add_InferenceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_call_that_fails_at_once_is_sent_again() -> None:
    with flaky() as (address, servicer), Client(address) as client:
        assert client.generate("x").text == "ok"
        assert client.tokenize("x").num_tokens == 7
        assert servicer.num_calls == 4


async def test_so_it_is_with_an_event_loop() -> None:
    with flaky() as (address, servicer):
        async with AsyncClient(address) as client:
            assert (await client.generate("x")).text == "ok"
            assert (await client.tokenize("x")).num_tokens == 7
        assert servicer.num_calls == 4


async def test_a_stream_that_has_begun_is_never_sent_again() -> None:
    with flaky() as (address, servicer):
        async with AsyncClient(address) as client:
            stream = client.stream("late")
            assert (await anext(stream)).text == "ok"
            with pytest.raises(UnavailableError, match="in the middle"):
                await anext(stream)
        with Client(address) as client_too, pytest.raises(UnavailableError):
            client_too.generate("late")
        assert servicer.num_calls == 2


def test_retries_can_be_off() -> None:
    with flaky() as (address, servicer), Client(address, retries=False) as client:
        with pytest.raises(UnavailableError, match="not yet"):
            client.generate("x")
        assert servicer.num_calls == 1


async def test_the_token_goes_with_every_call() -> None:
    with flaky() as (address, servicer):
        async with AsyncClient(address, token="secret") as client:
            await client.generate("x")
        with Client(address, token="secret") as client_too:
            client_too.tokenize("x")
        assert {seen["authorization"] for seen in servicer.metadata} == {"Bearer secret"}


async def test_a_refusal_is_obeyed_when_it_says_when_and_when_it_says_never() -> None:
    with refusing(OverloadedError("full", retry_after_s=0.4)) as (address, seen):
        async with AsyncClient(address) as client:
            with pytest.raises(OverloadedError, match="full"):
                await client.generate("x")
        gaps_s = [later - earlier for earlier, later in pairwise(seen)]
        assert len(gaps_s) == 3
        assert all(gap_s >= 0.39 for gap_s in gaps_s)
    late = OverloadedError("late", retry_after_s=0.4, reason=Reason.DEADLINE_UNREACHABLE)
    for error in (OverloadedError("full", retry_after_s=2.1), late):
        with refusing(error) as (address, seen), Client(address) as one:
            with pytest.raises(OverloadedError) as caught:
                one.generate("x")
            assert caught.value.retry_after_s == error.retry_after_s
            assert len(seen) == 1


def test_a_fleet_of_refused_calls_is_sent_once_each_but_for_the_first() -> None:
    """A channel's retry budget is 10, half of which may be used; every refusal costs 1."""
    refusal = OverloadedError("full", retry_after_s=0.01)
    with refusing(refusal) as (address, seen), Client(address) as client:
        for _ in range(50):
            with pytest.raises(OverloadedError):
                client.generate("x")
    assert len(seen) <= 50 + 5
