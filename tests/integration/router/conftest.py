"""A scripted worker behind a router, for tests of one request at a time; a test file may have its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.support.resumed_streams import LATE
from tests.integration.support.router_stack import Stack, serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def worker() -> ScriptedWorker:
    return ScriptedWorker()


@pytest.fixture
async def patient(model_dir: Path, worker: ScriptedWorker) -> AsyncIterator[Stack]:
    """Yield a router that waits for ever."""
    async with serving(model_dir, worker, config=LATE) as stack:
        yield stack
