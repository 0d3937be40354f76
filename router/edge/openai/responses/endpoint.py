"""/v1/responses: from a checked request to a response, or to the events that tell of it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from pdserve.errors import RequestError
from router.edge.openai.answers import Counts, Json, now_s
from router.edge.openai.chat_endpoint import ChatEndpoint, OpenedChat
from router.edge.openai.errors import param_of
from router.edge.openai.field_names import own_names
from router.edge.openai.generation import Generation
from router.edge.openai.responses.output import Output
from router.edge.openai.responses.request import ResponseRequest

_ID_PREFIX = "resp_"
# what a chat calls a field -> what it is called here
_NAMES = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "response_format.type": "text.format.type",
    "response_format.json_schema": "text.format.schema",
}


@dataclass(slots=True)
class OpenedResponse:
    """A response that may run, and what has come of it."""

    response_id: str
    asked: ResponseRequest
    chat: OpenedChat
    model: str
    created_s: int = field(default_factory=now_s)
    output: Output = field(default_factory=Output)

    def to_json(self, status: str, counts: Counts | None = None) -> Json:
        """Return the response as it is now."""
        asked = self.asked
        is_cut = status == "incomplete"
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_s,
            "status": status,
            "model": self.model,
            "output": [item.to_json() for item in self.output.items],
            "usage": None if counts is None else _usage(counts),
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "parallel_tool_calls": asked.parallel_tool_calls,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "tool_choice": _dumped(asked.tool_choice) or "auto",
            "tools": [_dumped(tool) for tool in asked.tools or ()],
            "text": asked.text.model_dump(exclude_unset=True, by_alias=True),
            "previous_response_id": None,
            "truncation": "disabled",
            "metadata": {},
            "store": False,
        }


class ResponseEndpoint:
    """Opens and runs responses. Holds no state of any."""

    def __init__(self, model: str, chats: ChatEndpoint, generation: Generation) -> None:
        self._model = model
        self._chats = chats
        self._generation = generation

    async def open(self, asked: ResponseRequest, request_id: str) -> OpenedResponse:
        """Prepare a response. Raises RequestError, with the field's name in a response."""
        try:
            meant = asked.to_chat()
            with own_names(meant):
                chat = await self._chats.open(meant, request_id)
        except RequestError as error:
            param = param_of(error.field)
            error.field = _NAMES.get(param or "", param)
            raise
        return OpenedResponse(f"{_ID_PREFIX}{request_id}", asked, chat, self._model)

    async def stream(self, opened: OpenedResponse) -> AsyncGenerator[Json]:
        """Yield the events. Raises RequestError; closing it cancels."""
        counts = Counts(len(opened.chat.job.prompt_token_ids))
        (choice,) = opened.chat.choices
        begun = opened.to_json("in_progress")
        async with aclosing(self._generation.run([opened.chat.job])) as pieces:
            is_first = True
            async for piece in pieces:
                if is_first:
                    is_first = False
                    yield {"type": "response.created", "response": begun}
                    yield {"type": "response.in_progress", "response": begun}
                counts.add(piece.delta)
                for shown in choice.take(piece.delta):
                    for event in opened.output.take(shown):
                        yield event
        status = "incomplete" if opened.output.finish_reason == "length" else "completed"
        yield {"type": f"response.{status}", "response": opened.to_json(status, counts)}

    async def whole(self, opened: OpenedResponse) -> Json:
        """Return the finished response. Raises RequestError."""
        last: Json = {}
        async with aclosing(self.stream(opened)) as events:
            async for event in events:
                last = event
        response = last["response"]
        return response if isinstance(response, dict) else {}


def _usage(counts: Counts) -> Json:
    return {
        "input_tokens": counts.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.num_cached_tokens},
        "output_tokens": counts.num_output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.num_prompt_tokens + counts.num_output_tokens,
    }


def _dumped(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(exclude_unset=True)
