"""Server-sent events of the endpoints that stream."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pydantic_core

from router.edge.openai.answers import Json

_DONE = b"data: [DONE]\n\n"


def to_json(message: object) -> bytes:
    """Return a message as compact JSON; at a fifth of the cost of the json module's."""
    return pydantic_core.to_json(message)


async def completion_events(messages: AsyncGenerator[Json]) -> AsyncGenerator[bytes]:
    """Yield the messages of a chat or completion, and [DONE]."""
    async with aclosing(messages):
        async for message in messages:
            yield b"data: " + to_json(message) + b"\n\n"
    yield _DONE


async def response_events(events: AsyncGenerator[Json]) -> AsyncGenerator[bytes]:
    """Yield the events of a response, numbered from 0."""
    number = 0
    async with aclosing(events):
        async for event in events:
            name = str(event["type"]).encode()
            numbered = {**event, "sequence_number": number}
            yield b"event: " + name + b"\ndata: " + to_json(numbered) + b"\n\n"
            number += 1


def completion_failure(body: Json) -> bytes:
    """Return what ends the stream of a chat or completion that failed."""
    return b"data: " + to_json(body) + b"\n\n" + _DONE


def response_failure(body: Json) -> bytes:
    """Return what ends the stream of a response that failed."""
    error = body["error"]
    told = {"type": "error", **(error if isinstance(error, dict) else {})}
    return b"event: error\ndata: " + to_json(told) + b"\n\n"
