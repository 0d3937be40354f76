"""The table of paths: the application serves them, and the OpenAPI document describes them."""

from dataclasses import dataclass

from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.completion_request import CompletionRequest
from router.edge.openai.fields import OpenAiModel
from router.edge.openai.model_pages import ChatToTokenize, DetokenizeRequest, TokenizeRequest
from router.edge.openai.responses.request import ResponseRequest

JSON, TEXT, EVENTS = "application/json", "text/plain", "text/event-stream"
_ANY = (401, 500)  # of every path that asks for a key
_BODY = (400, 404, 408, 413, 415)
_RUN = (409, 429, 503, 504)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, and what it takes and gives."""

    method: str
    path: str  # in Starlette's form
    summary: str
    body: tuple[type[OpenAiModel], ...] = ()  # the JSON body is one of them
    keys: tuple[str, ...] = ()  # those that each JSON answer has
    media_type: str = JSON  # of an answer
    is_open: bool = False  # asks for no key
    can_stream: bool = False
    errors: tuple[int, ...] = _ANY  # statuses with a body in OpenAI's form
    text_errors: tuple[int, ...] = ()  # statuses with a body of text


def _post(
    path: str, summary: str, *body: type[OpenAiModel], keys: tuple[str, ...], runs: bool = False
) -> Operation:
    errors = (*_BODY, *_ANY, *(_RUN if runs else ()))
    return Operation("POST", path, summary, body, keys, can_stream=runs, errors=errors)


_COMPLETION = ("id", "object", "created", "model", "choices", "usage")
_RESPONSE = ("id", "object", "created_at", "status", "model", "output", "usage")
_MODEL = ("id", "object", "created", "owned_by", "max_model_len")
_TOKENS = ("count", "max_model_len", "tokens", "token_strs")

OPERATIONS: tuple[Operation, ...] = (
    _post("/v1/chat/completions", "Answer a chat.", ChatRequest, keys=_COMPLETION, runs=True),
    _post("/v1/completions", "Continue prompts.", CompletionRequest, keys=_COMPLETION, runs=True),
    _post("/v1/responses", "Answer a single turn.", ResponseRequest, keys=_RESPONSE, runs=True),
    _post("/tokenize", "Tokenize a text or a chat.", TokenizeRequest, ChatToTokenize, keys=_TOKENS),
    _post("/detokenize", "Turn token ids into text.", DetokenizeRequest, keys=("prompt",)),
    Operation("GET", "/v1/models", "List the served model.", keys=("object", "data")),
    Operation(
        "GET",
        "/v1/models/{model:path}",
        "Describe the served model.",
        keys=_MODEL,
        errors=(404, *_ANY),
    ),
    Operation("GET", "/metrics", "Show Prometheus metrics.", media_type=TEXT),
    Operation(
        "GET",
        "/health",
        "Say whether a worker takes requests: 200 or 503.",
        media_type=TEXT,
        is_open=True,
        errors=(),
        text_errors=(503,),
    ),
    Operation("GET", "/version", "Show the version.", keys=("version",), is_open=True, errors=()),
    Operation(
        "GET", "/openapi.json", "Show this document.", keys=("openapi",), is_open=True, errors=()
    ),
)
