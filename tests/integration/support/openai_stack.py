"""OpenAI's API of a real router over scripted workers, and its official client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from openai import AsyncOpenAI

from common.router_config import RouterConfig
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from tests.integration.support.router_stack import HOST, Stack, serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S


@dataclass(frozen=True, slots=True)
class OpenAiStack:
    """OpenAI's API of a running router, for a test to drive."""

    stack: Stack
    client: AsyncOpenAI
    http: httpx2.AsyncClient  # for what the official client would not send


@asynccontextmanager
async def openai_serving(
    model_dir: Path,
    *workers: ScriptedWorker,
    config: RouterConfig | None = None,
    tracing: Tracing = NO_TRACING,
) -> AsyncIterator[OpenAiStack]:
    """Serve, and connect both clients."""
    async with serving(model_dir, *workers, config=config, tracing=tracing) as stack:
        port = await stack.router.serve_openai(HOST, 0)
        url = f"http://{HOST}:{port}"
        async with (
            httpx2.AsyncClient(base_url=url, timeout=WITHIN_S, trust_env=False) as http,
            AsyncOpenAI(
                base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=WITHIN_S
            ) as client,
        ):
            yield OpenAiStack(stack, client, http)
