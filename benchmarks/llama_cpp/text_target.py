"""Target with a text prompt: OpenAI's /v1/completions of servers that take no token ids."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import urlsplit

from benchmarks.workload import Work

_TIMEOUT_S = 600.0
_WORDS = (
    "server",
    "memory",
    "block",
    "river",
    "stone",
    "window",
    "letter",
    "garden",
    "morning",
    "copper",
)


class TextTarget:
    """Target that sends random words, about as many as a work has prompt tokens.

    An event counts as a token; the last one counts as all that are left, since a server may hold back
    a character that is not whole.
    """

    def __init__(self, url: str, model: str, options: Mapping[str, object]) -> None:
        """`options` are more fields of each request: how the server goes on after an end token."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._model, self._options = model, dict(options)

    async def stream(self, work: Work) -> AsyncGenerator[int]:
        """Run one request, as Target.stream."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(self._request(work))
            left = work.output_tokens
            async with asyncio.timeout(_TIMEOUT_S):
                async for choice in _choices(reader):
                    count = left if _is_whole(choice) else min(1, left - 1)
                    if count:
                        yield count
                    left -= count
        finally:
            writer.close()

    def _request(self, work: Work) -> bytes:
        rng = random.Random(repr(work.prompt_token_ids))
        prompt = " ".join(rng.choice(_WORDS) for _ in work.prompt_token_ids)
        asked = {"model": self._model, "prompt": prompt, "max_tokens": work.output_tokens}
        body = json.dumps({**asked, "temperature": 0, "stream": True, **self._options}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _is_whole(choice: Mapping[str, object]) -> bool:
    """Return whether an answer has ended. Raises RuntimeError if it did so before its length."""
    reason = choice.get("finish_reason")
    if reason not in (None, "length"):
        raise RuntimeError(f"the server ended an answer early: {reason}")
    return reason is not None


async def _choices(reader: asyncio.StreamReader) -> AsyncGenerator[Mapping[str, object]]:
    """Yield the choices of a stream's events. Raises RuntimeError for an answer without events."""
    refusal = b""
    async for line in reader:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(f"the server answered {event['error']}")
            for choice in event["choices"]:
                yield choice
        elif line.startswith(b"{"):
            refusal = line
    if refusal:
        raise RuntimeError(f"the server answered {refusal.decode()}")
