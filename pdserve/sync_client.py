"""The client for code without an event loop; `pdserve.client` has the same for asyncio.

Generated from pdserve/client.py by `make sync-client`; edit that file, not this one.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from types import TracebackType
from typing import NoReturn

from pdserve.admin_requests import SCALE_WITHIN_S, make_drain_request, make_scale_request
from pdserve.building import build
from pdserve.completion import Completion
from pdserve.connection import Certificate
from pdserve.errors import InvalidRequestError, UnsupportedError
from pdserve.prompts import (
    Messages,
    Prompt,
    Sampling,
    make_stream_request,
    make_tokenize_request,
)
from pdserve.sync_calls import Calls
from pdserve.v1 import admin_pb2, inference_pb2

_NO_EMBEDDINGS = (
    "pdserve serves causal language models, which make no embeddings; use a server for those"
)


class Client:
    """Calls a router, one of several. Use it from any thread, and as a context manager.

    Every call raises a RequestError of `pdserve.errors` when the router refuses or fails it, and
    InvalidRequestError for arguments that cannot be sent. `timeout` is in seconds. With `retries`, a call
    that ends as UNAVAILABLE, or is refused for up to 2 s, is sent again up to three times, when the router
    says. It is not sent again once a part of its answer has come, nor while most calls fail. A resumable
    stream that breaks goes on by itself, at the same router or at another one. Any other call goes to the
    next router when the present one is out of reach, or shuts down, and nothing of the answer has come.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        token: str | None = None,
        root_certificates: bytes | None = None,
        client_certificate: Certificate | None = None,
        retries: bool = True,
    ) -> None:
        """Connect to `address`; with PEM roots or a client certificate over TLS.

        The address is host:port. Several, in a list or with commas, are routers of one deployment.

        `client_certificate` is the private key and the certificate chain, both PEM.
        """
        self._calls = Calls(address, token, root_certificates, client_certificate, retries=retries)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; what still streams is cancelled."""
        self._calls.close()

    def generate(
        self,
        prompt: Prompt,
        sampling: Sampling | None = None,
        *,
        request_id: str = "",
        cache_salt: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> Completion:
        """Return the whole answer to a text, a chat [(role, content), ...] or token ids.

        `sampling` is a SamplingParams, or a mapping with values of its fields.
        """
        completion = Completion()
        stream = self.stream(
            prompt,
            sampling,
            request_id=request_id,
            cache_salt=cache_salt,
            priority=priority,
            timeout=timeout,
        )
        with closing(stream):
            for response in stream:
                completion.add(response)
        return completion

    def chat(
        self,
        messages: Messages,
        sampling: Sampling | None = None,
        *,
        timeout: float | None = None,
    ) -> Completion:
        """Return the assistant's next turn; turns are (role, content) or {"role": ..., "content": ...}."""
        return self.generate(messages, sampling, timeout=timeout)

    def stream(
        self,
        prompt: Prompt,
        sampling: Sampling | None = None,
        *,
        request_id: str = "",
        cache_salt: str = "",
        priority: int = 0,
        resumable: bool = False,
        timeout: float | None = None,
    ) -> Generator[inference_pb2.GenerateResponse]:
        """Yield the answer as it comes; closing the generator cancels the request.

        Requests of different `cache_salt` share no cached KV; those of lower `priority` go first.
        A `resumable` request outlives its stream for the router's grace period; only `cancel` ends it early.
        When its stream breaks it is read on, unless `retries` is off. A router that is gone is replaced by
        another one, which goes on behind the tokens that have come.
        """
        request = make_stream_request(
            prompt, sampling, request_id, cache_salt, priority, resumable=resumable
        )
        return self.send(request, timeout=timeout)

    def resume(
        self, request_id: str, next_sequence: int, *, timeout: float | None = None
    ) -> Generator[inference_pb2.GenerateResponse]:
        """Yield the rest of a resumable request's messages, from number `next_sequence` on."""
        values = {"request_id": request_id, "resume_from": next_sequence}
        request = build(inference_pb2.GenerateRequest, values)
        return self.send(request, timeout=timeout)

    def send(
        self, request: inference_pb2.GenerateRequest, *, timeout: float | None = None
    ) -> Generator[inference_pb2.GenerateResponse]:
        """Send a request message as it is and yield the responses."""
        if not isinstance(request, inference_pb2.GenerateRequest):
            raise InvalidRequestError("is no pdserve.v1.GenerateRequest", field="request")
        return self._calls.generate(request, timeout)

    def cancel(self, request_id: str, *, timeout: float = 5.0) -> None:
        """Stop a request."""
        request = build(inference_pb2.CancelRequest, {"request_id": request_id})
        self._calls.ask(lambda router: router.inference.Cancel, request, timeout)

    def explain(self, request_id: str, *, timeout: float = 5.0) -> inference_pb2.ExplainResponse:
        """Return the router's decision about a request, and what came of it."""
        request = build(inference_pb2.ExplainRequest, {"request_id": request_id})
        return self._calls.ask(lambda router: router.inference.Explain, request, timeout)

    def tokenize(
        self, prompt: str | Messages, *, timeout: float = 30.0
    ) -> inference_pb2.TokenizeResponse:
        """Return the prompt's token ids, as `generate` would make them."""
        request = make_tokenize_request(prompt)
        return self._calls.ask(lambda router: router.inference.Tokenize, request, timeout)

    def models(self, *, timeout: float = 5.0) -> Sequence[inference_pb2.Model]:
        """Return the models that the router serves, with their limits."""
        request = inference_pb2.ListModelsRequest()
        response = self._calls.ask(lambda router: router.inference.ListModels, request, timeout)
        return response.models

    def blocks(self, *, check: bool = False, timeout: float = 5.0) -> admin_pb2.BlocksResponse:
        """Return the ledgers of all workers: which request holds how many KV blocks, and why.

        With `check`, each worker checks the invariants of its KV memory too.
        """
        request = build(admin_pb2.BlocksRequest, {"check": check})
        return self._calls.ask(lambda router: router.admin.Blocks, request, timeout)

    def status(self, *, timeout: float = 5.0) -> admin_pb2.StatusResponse:
        """Return the state of the router and its workers."""
        request = admin_pb2.StatusRequest()
        return self._calls.ask(lambda router: router.admin.Status, request, timeout)

    def scale(
        self,
        prefill: int | None = None,
        decode: int | None = None,
        *,
        drain_timeout_s: float = 300.0,
        timeout: float | None = None,
    ) -> Generator[admin_pb2.ScaleResponse]:
        """Change the number of workers of each role (None: as many as now); yield each thing done.

        The change goes on when the iterator is left, and when `timeout` passes: by default 15 minutes
        beside the time for draining. Other requests are served meanwhile.
        """
        request = make_scale_request(prefill, decode, drain_timeout_s)
        within_s = drain_timeout_s + SCALE_WITHIN_S if timeout is None else timeout
        return self._calls.receive_once(lambda router: router.admin.Scale, request, within_s)

    def drain(self, worker: str, *, timeout_s: float = 300.0, timeout: float | None = None) -> None:
        """Let a worker end its work, for `timeout_s` seconds, and leave; return when it has left.

        `timeout` is as in `scale`.
        """
        request = make_drain_request(worker, timeout_s)
        within_s = timeout_s + SCALE_WITHIN_S if timeout is None else timeout
        self._calls.ask_once(lambda router: router.admin.Drain, request, within_s)

    def embed(self, *args: object, **kwargs: object) -> NoReturn:
        """Raise UnsupportedError: pdserve makes no embeddings."""
        raise UnsupportedError(_NO_EMBEDDINGS)
