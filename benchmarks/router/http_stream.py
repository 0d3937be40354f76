"""Streams of OpenAI's API by a client that costs little: it reads events, and no more of HTTP."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

_PROMPT = list(range(1, 17))


@contextlib.asynccontextmanager
async def opened(port: int, **options: object) -> AsyncGenerator[asyncio.StreamReader]:
    """Send a completion request, and yield the reader of its events."""
    body = {"prompt": _PROMPT, "stream": True, "return_token_ids": True, "ignore_eos": True}
    data = json.dumps({**body, **options}).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + data)
        yield reader
    finally:
        writer.close()


async def token_ids(reader: asyncio.StreamReader) -> AsyncGenerator[list[int]]:
    """Yield the tokens of each event that has some."""
    async for line in reader:
        if line.startswith(b"data: {"):
            found: list[int] = json.loads(line[6:])["choices"][0].get("token_ids", [])
            if found:
                yield found
