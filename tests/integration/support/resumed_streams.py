"""Set-up shared by the tests of resumed streams."""

import asyncio

from common.messages import WorkRequest
from common.router_config import RouterConfig
from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2
from tests.integration.support.router_stack import Stack
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S

LATE = RouterConfig(resume_grace_s=600.0, max_outage_s=0)  # waits for ever, but for no worker
Responses = list[inference_pb2.GenerateResponse]


async def begin(
    client: AsyncClient, worker: ScriptedWorker, text: str = "abc"
) -> tuple[WorkRequest, Responses]:
    """Start request "r", read `text` as one message per token, and leave its stream."""
    stream = client.stream("x", request_id="r", resumable=True)
    first = asyncio.ensure_future(anext(stream))
    request = await asyncio.to_thread(worker.wait_for_request)
    for index, letter in enumerate(text):
        worker.say(request, letter, index)
    read = [await first] + [await anext(stream) for _ in text[1:]]
    await stream.aclose()
    return request, read


async def rest(client: AsyncClient, sequence: int) -> Responses:
    return [part async for part in client.resume("r", sequence)]


async def until_forgotten(stack: Stack) -> None:
    async with asyncio.timeout(WITHIN_S):
        while stack.router._resumables.num_held:
            await asyncio.sleep(0.005)
