"""Short prompts behind long ones, over both faces, with workers that answer only when told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from common.messages import Role
from common.profile import WorkerProfile
from common.router_config import RouterConfig
from pdserve.errors import OverloadedError, Reason
from pdserve.v1 import inference_pb2
from tests.integration.support.openai_stack import OpenAiStack, openai_serving
from tests.integration.support.router_stack import MODEL, collect, text_of
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

# ten seconds for each prompt token, so that no prompt ages within the test
PROFILE = WorkerProfile(
    (1, 10), (10.0, 100.0), 0.0, 0.0, 0.0, 0.0, 0.0, max_batch_tokens=10, max_num_seqs=8
)
LONG = "x" * 100
MAX_WAIT_S = 1200.0


@dataclass(frozen=True, slots=True)
class Busy:
    """A router with three long prompts, each of a thousand seconds, that no worker answers."""

    api: OpenAiStack
    decode: ScriptedWorker

    async def serve(self, prompt: str) -> None:
        """Answer this prompt when it has come to the decode worker."""
        ids = tuple(prompt.encode())

        def is_there(worker: ScriptedWorker) -> bool:
            return any(request.prompt_token_ids == ids for request in worker.requests)

        await asyncio.to_thread(self.decode.wait, is_there)
        (request,) = (r for r in self.decode.requests if r.prompt_token_ids == ids)
        await asyncio.to_thread(lambda: self.decode.say(request, prompt.upper(), ends=True))


@asynccontextmanager
async def busy(tmp_path: Path) -> AsyncIterator[Busy]:
    workers = [ScriptedWorker("d", Role.DECODE), ScriptedWorker("p", Role.PREFILL)]
    for worker in workers:
        worker.info = replace(worker.info, profile=PROFILE)
    config = RouterConfig(max_wait_s=MAX_WAIT_S)
    async with openai_serving(write_folder(tmp_path), *workers, config=config) as api:
        stack, tasks = api.stack, []
        try:
            for number in range(1, 4):
                tasks.append(asyncio.create_task(collect(stack.client, LONG)))
                await stack.until(lambda s, n=number: s.router.requests_in_flight == n)  # type: ignore[misc]
            yield Busy(api, workers[0])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await stack.until_idle()


async def test_over_grpc_short_prompts_are_served_and_a_long_one_is_refused(tmp_path: Path) -> None:
    async with busy(tmp_path) as found:
        client = found.api.stack.client
        sampling = inference_pb2.SamplingParams(max_tokens=1)
        with pytest.raises(OverloadedError, match="token 1 is expected") as caught:
            await client.generate(LONG, sampling, timeout=MAX_WAIT_S)
        assert caught.value.reason is Reason.DEADLINE_UNREACHABLE
        assert caught.value.retry_after_s > 100
        with pytest.raises(OverloadedError, match=r"prompts wait 1[0-9]{3}") as caught:
            await collect(client, LONG)
        assert caught.value.reason is Reason.QUEUE_FULL
        for prompt in ("ab", "cd", "ef"):
            answer = asyncio.create_task(collect(client, prompt))
            await found.serve(prompt)
            assert text_of(await answer) == prompt.upper()


async def test_over_openai_s_api_too(tmp_path: Path) -> None:
    async with busy(tmp_path) as found:
        create: Any = found.api.client.completions.create

        async def ask(prompt: str) -> str:
            answer = await asyncio.wait_for(create(model=MODEL, prompt=prompt), WITHIN_S)
            return str(answer.choices[0].text)

        with pytest.raises(openai.RateLimitError, match=r"prompts wait 1[0-9]{3}") as caught:
            await ask(LONG)
        assert int(caught.value.response.headers["retry-after"]) > 100
        for prompt in ("ab", "cd", "ef"):
            answer = asyncio.create_task(ask(prompt))
            await found.serve(prompt)
            assert await answer == prompt.upper()
