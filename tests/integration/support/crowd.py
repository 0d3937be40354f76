"""Requests that run at a scripted worker, as many as a test wants to see at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from common.messages import Role, WorkRequest
from tests.integration.support.router_stack import ALWAYS_PREFILL, Stack, collect, serving
from tests.integration.support.scripted_worker import ScriptedWorker


class Crowd:
    """Requests that run at a scripted worker, and answers that a test gives them."""

    def __init__(self, stack: Stack, worker: ScriptedWorker) -> None:
        self._stack = stack
        self._worker = worker
        self._answers: dict[str, asyncio.Task[Any]] = {}

    async def begin(self, *names: str, num_tokens: int = 3) -> None:
        """Start requests, and give each so many tokens."""
        for name in names:
            asking = collect(self._stack.client, "hello", request_id=name, max_tokens=9)
            self._answers[name] = asyncio.create_task(asking)
        await asyncio.to_thread(self._worker.wait_for_request, len(self._answers))
        for name in names:
            self._worker.say(self._request(name), "x" * num_tokens)

    async def end(self, name: str) -> None:
        """End a request."""
        self._worker.say(self._request(name), "!", 3, ends=True)
        await self._answers[name]

    def _request(self, name: str) -> WorkRequest:
        return next(
            r
            for r in self._worker.requests
            if r.request_id.partition("/")[2].partition("/")[2] == name
        )


@asynccontextmanager
async def crowded(model_dir: Path) -> AsyncIterator[tuple[Stack, Crowd]]:
    """Yield a router whose prompts are handed off, and requests at its decode worker."""
    prefill, decode = ScriptedWorker("prefill-0", Role.PREFILL), ScriptedWorker()
    async with serving(model_dir, decode, prefill, config=ALWAYS_PREFILL) as stack:
        yield stack, Crowd(stack, decode)
