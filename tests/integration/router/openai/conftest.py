"""OpenAI's API over one scripted worker that echoes the prompt, unless a test says otherwise."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.support.openai_stack import OpenAiStack, openai_serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.fixture
def worker() -> ScriptedWorker:
    return ScriptedWorker(script=echo)


@pytest.fixture
async def api(tmp_path: Path, worker: ScriptedWorker) -> AsyncIterator[OpenAiStack]:
    async with openai_serving(write_folder(tmp_path), worker) as stack:
        yield stack
