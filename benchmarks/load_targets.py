"""Targets of a load: pdserve over gRPC, and servers with OpenAI's API."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import urlsplit

from benchmarks.workload import Work
from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2

_TIMEOUT_S = 600.0


class PdserveTarget:
    """Target for pdserve over gRPC."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def stream(self, work: Work) -> AsyncGenerator[int]:
        """Run one request, as Target.stream."""
        sampling = inference_pb2.SamplingParams(
            temperature=0.0, max_tokens=work.output_tokens, ignore_eos=True
        )
        stream = self._client.stream(work.prompt_token_ids, sampling, timeout=_TIMEOUT_S)
        async with aclosing(stream):
            async for response in stream:
                if response.token_ids:
                    yield len(response.token_ids)


class OpenAITarget:
    """Target for a server whose OpenAI-compatible /v1/completions takes token ids, such as vLLM.

    Reads server-sent events from a plain socket: a full HTTP client would use too much of the two
    cores on which the server is measured.
    """

    def __init__(self, url: str, model: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._model = model

    async def stream(self, work: Work) -> AsyncGenerator[int]:
        """Run one request, as Target.stream."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(self._request(work))
            async with asyncio.timeout(_TIMEOUT_S):
                seen = 0
                while line := await reader.readline():
                    total = _completion_tokens(line)
                    if total > seen:
                        yield total - seen
                        seen = total
        finally:
            writer.close()

    def _request(self, work: Work) -> bytes:
        body = json.dumps(
            {
                "model": self._model,
                "prompt": list(work.prompt_token_ids),
                "max_tokens": work.output_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _completion_tokens(line: bytes) -> int:
    """Return the tokens so far, from one line of the event stream; 0 for any other line."""
    if not line.startswith(b"data: {"):
        return 0
    event = json.loads(line[6:])
    if "error" in event:
        raise RuntimeError(f"the server answered {event['error']}")
    return int((event.get("usage") or {}).get("completion_tokens", 0))
