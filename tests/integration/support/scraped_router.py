"""Router over scripted workers that has served a little, and its page of metrics."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.messages import Role
from common.router_config import RouterConfig
from pdserve.errors import InvalidRequestError
from tests.integration.support.router_stack import Stack, collect, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S

# every set of metrics that settings can switch on
ALL_METRICS = RouterConfig(
    slo_ttft_s=60.0, slo_tpot_s=60.0, metrics_compat="vllm", metrics_tenants=2
)


@asynccontextmanager
async def used(model_dir: Path, config: RouterConfig | None = None) -> AsyncIterator[Stack]:
    """Yield a router that has answered one request and refused another."""
    prefill = ScriptedWorker("prefill-0", Role.PREFILL)
    decode = ScriptedWorker(script=echo)
    decode.reported = replace(decode.reported, preemptions=3, prefill_fallbacks=2)
    async with serving(model_dir, decode, prefill, config=config) as stack:
        await collect(stack.client, "three")
        with pytest.raises(InvalidRequestError):
            await collect(stack.client, "")
        yield stack


async def scrape(stack: Stack, accept: str = "text/plain") -> str:
    """Return the page of metrics."""

    def get() -> str:
        request = urllib.request.Request(f"{stack.http}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=WITHIN_S) as response:
            body: bytes = response.read()
            return body.decode()

    return await asyncio.to_thread(get)


def values(body: str) -> dict[tuple[str, ...], float]:
    """Return the samples by name and values of their labels, sorted."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
