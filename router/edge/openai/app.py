"""OpenAI's HTTP API of a router: pages, who may see them, and errors in OpenAI's form."""

import asyncio
import importlib.metadata
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from common.rpc.bearer import token_of
from common.telemetry.logs import get_logger
from common.telemetry.tracing.caller import note_caller
from pdserve.errors import InternalError, NotFoundError, Reason, RequestError
from router.access.tenant import Tenant, set_current_tenant
from router.edge.openai import model_pages
from router.edge.openai.answers import Json, now_s
from router.edge.openai.body import read_json
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.completion_request import CompletionRequest
from router.edge.openai.connection import Check, ClientGoneError, EventStream, while_connected
from router.edge.openai.endpoints import Answer, Endpoints, make_request_id
from router.edge.openai.errors import HttpError, to_answer
from router.edge.openai.events import (
    completion_events,
    completion_failure,
    response_events,
    response_failure,
    to_json,
)
from router.edge.openai.fields import OpenAiModel, parse
from router.edge.openai.openapi import document
from router.edge.openai.operations import OPERATIONS
from router.edge.openai.responses.request import ResponseRequest
from router.edge.router_state import RouterState
from router.intake.intake import Intake
from router.intake.job import Limits
from router.intake.tokenizer import Tokenizer
from router.journey.journey import Journeys

_CLIENT_GONE = 499  # nginx's status for it; nobody reads it
_log = get_logger()
_Model = TypeVar("_Model", bound=OpenAiModel)
# From a bearer token to its tenant. Raises UnauthenticatedError.
Authorize = Callable[[bytes | None], Tenant]
Handler = Callable[[Request], Awaitable[Response]]
Page = EventStream | Response


class OpenAiPages:
    """The handlers. All on the router's event loop."""

    def __init__(
        self,
        intake: Intake,
        journeys: Journeys,
        state: RouterState,
        registry: CollectorRegistry,
        authorize: Authorize,
        slow_client_s: float,
    ) -> None:
        self._intake = intake
        self._limits = intake.limits
        self._endpoints = Endpoints(intake, journeys)
        self._state = state
        self._registry = registry
        self._authorize = authorize
        self._slow_client_s = slow_client_s
        self._started_s = now_s()

    def app(self) -> Starlette:
        """Return the application."""
        pages: dict[str, Callable[[Request], Awaitable[Page]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completions,
            "/v1/responses": self._response,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/v1/models": self._models,
            "/v1/models/{model:path}": self._model,
            "/metrics": self._metrics,
            "/health": self._health,
            "/version": self._version,
            "/openapi.json": self._openapi,
        }
        routes = []
        for asked in OPERATIONS:
            page = pages[asked.path]
            handler = page if asked.is_open else self._guarded(page)
            routes.append(Route(asked.path, handler, methods=[asked.method]))
        handlers = {HTTPException: _no_page}
        return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]

    def _guarded(self, handler: Callable[[Request], Awaitable[Page]]) -> Handler:
        """Let only callers with a key in, and answer every RequestError in OpenAI's form."""

        async def handle(request: Request) -> Response:
            try:
                set_current_tenant(
                    self._authorize(token_of(request.headers.get("authorization", "")))
                )
                page = await handler(request)
            except RequestError as error:
                return _refusal(error)
            except (ClientGoneError, ClientDisconnect):
                return Response(status_code=_CLIENT_GONE)
            except Exception as error:
                _log.exception("openai_request_failed")
                return _refusal(InternalError(f"unexpected {type(error).__name__}"))
            return page  # type: ignore[return-value]  # an EventStream is an ASGI application too

        return handle

    async def _chat(self, request: Request) -> Page:
        asked = await self._parse(ChatRequest, request)
        name = _request_id(request, asked.request_id)
        return await self._answer(request, name, await self._endpoints.open_chat(asked, name))

    async def _completions(self, request: Request) -> Page:
        asked = await self._parse(CompletionRequest, request)
        name = _request_id(request, asked.request_id)
        opened = await self._endpoints.open_completion(asked, name)
        return await self._answer(request, name, opened)

    async def _parse(self, model: type[_Model], request: Request) -> _Model:
        is_chat = model is not CompletionRequest
        note_caller("chat" if is_chat else "text_completion", request.headers.items())
        with self._intake.counting_refusals():
            return parse(model, await read_json(request))

    async def _answer(self, request: Request, name: str, answer: Answer) -> Page:
        if not answer.asked.stream:
            return await self._whole(request, name, self._endpoints.whole(answer))
        events = completion_events(self._endpoints.stream(answer))
        return await self._stream(request, name, events, completion_failure)

    async def _response(self, request: Request) -> Page:
        asked = await self._parse(ResponseRequest, request)
        name = _request_id(request, "")
        opened = await self._endpoints.responses.open(asked, name)
        if not asked.stream:
            return await self._whole(request, name, self._endpoints.responses.whole(opened))
        events = response_events(self._endpoints.responses.stream(opened))
        return await self._stream(request, name, events, response_failure)

    async def _whole(self, request: Request, name: str, work: Coroutine[Any, Any, Json]) -> Page:
        found = await while_connected(request.receive, self._check_of(request), work)
        return _json(found, headers={"X-Request-ID": name})

    async def _stream(
        self,
        request: Request,
        name: str,
        events: AsyncGenerator[bytes],
        to_failure: Callable[[Json], bytes],
    ) -> Page:
        check = self._check_of(request)
        try:
            first = await while_connected(request.receive, check, _next(events))
        except BaseException:
            await events.aclose()
            raise
        headers = {"X-Request-ID": name}
        return EventStream(events, first, check, self._slow_client_s, headers, to_failure)

    def _check_of(self, request: Request) -> Check:
        """Return the check that the caller's key is valid still."""
        token = token_of(request.headers.get("authorization", ""))

        def check() -> None:
            self._authorize(token)

        return check

    async def _models(self, request: Request) -> Page:
        model = model_pages.describe_model(self._limits, self._started_s)
        return _json({"object": "list", "data": [model]})

    async def _model(self, request: Request) -> Page:
        name = request.path_params["model"]
        if name != self._limits.model:
            message = f"'{name}' is not served here; '{self._limits.model}' is"
            raise NotFoundError(message, reason=Reason.MODEL_NOT_FOUND, field="model")
        return _json(model_pages.describe_model(self._limits, self._started_s))

    async def _tokenize(self, request: Request) -> Page:
        return await self._in_thread(request, model_pages.tokenize)

    async def _detokenize(self, request: Request) -> Page:
        return await self._in_thread(request, model_pages.detokenize)

    async def _in_thread(
        self, request: Request, make: Callable[[object, Limits, Tokenizer], object]
    ) -> Page:
        data = await read_json(request)
        return _json(await asyncio.to_thread(make, data, self._limits, self._intake.tokenizer))

    async def _metrics(self, request: Request) -> Page:
        body = generate_latest(self._registry)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    async def _health(self, request: Request) -> Response:
        if self._state.can_serve():
            return Response("ok\n", media_type="text/plain")
        text = "no decode worker is ready, or the router drains\n"
        return Response(text, 503, media_type="text/plain")

    async def _version(self, request: Request) -> Response:
        return _json({"version": importlib.metadata.version("pdserve")})

    async def _openapi(self, request: Request) -> Response:
        version = importlib.metadata.version("pdserve")
        return _json(await asyncio.to_thread(document, version))


async def _next(events: AsyncGenerator[bytes]) -> bytes:
    return await anext(events)


def _request_id(request: Request, stated: str) -> str:
    return stated or request.headers.get("x-request-id", "") or make_request_id()


def _json(data: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(data), status, headers, "application/json")


def _refusal(error: RequestError) -> Response:
    answer = to_answer(error)
    return _json(answer.body, answer.status, answer.headers)


async def _no_page(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        refusal = HttpError(405, "method_not_allowed", f"{request.url.path}: not {request.method}")
    else:
        refusal = HttpError(error.status_code, "not_found", f"there is no {request.url.path}")
    response = _refusal(refusal)
    response.headers.update(error.headers or {})
    return response
