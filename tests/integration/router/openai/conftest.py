"""OpenAI's API over one scripted worker that echoes the prompt, unless a test says otherwise.

One router serves all tests of a module; each test finds it idle, and its worker without a memory.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.integration.support.openai_stack import OpenAiStack, openai_serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder


@dataclass(frozen=True, slots=True)
class Shared:
    """The router of a module and its worker."""

    api: OpenAiStack
    worker: ScriptedWorker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_router(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    worker = ScriptedWorker(script=echo)
    async with openai_serving(write_folder(tmp_path_factory.mktemp("model")), worker) as api:
        yield Shared(api, worker)


@pytest.fixture
def worker(module_router: Shared) -> ScriptedWorker:
    module_router.worker.requests.clear()
    return module_router.worker


@pytest_asyncio.fixture(loop_scope="module")
async def api(module_router: Shared) -> AsyncIterator[OpenAiStack]:
    yield module_router.api
    await module_router.api.stack.until_idle()
