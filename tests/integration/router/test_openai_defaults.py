"""Sampling defaults of the model over OpenAI's API: smg inserts them if a client sets none."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from openai import OpenAI

from common.messages import SamplingParams
from deploy.openai_gateway import OpenAiGateway
from tests.integration.support.router_stack import HOST, MODEL, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder

SAID = {"temperature": 0.5, "top_k": 7, "top_p": 0.25, "min_p": 0.125, "repetition_penalty": 1.5}
HELLO: Any = [{"role": "user", "content": "hello"}]


class Api:
    """OpenAI's API, and the requests that reach the worker."""

    def __init__(self, url: str, worker: ScriptedWorker) -> None:
        self._api = OpenAI(base_url=url, api_key="none", max_retries=0)
        self._worker = worker

    def chat(self, **options: Any) -> SamplingParams:
        self._api.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2, **options)
        return self._worker.requests[-1].sampling

    def complete(self, **options: Any) -> SamplingParams:
        self._api.completions.create(model=MODEL, prompt="hello", max_tokens=2, **options)
        return self._worker.requests[-1].sampling


@asynccontextmanager
async def fronting(folder: Path) -> AsyncIterator[Api]:
    worker = ScriptedWorker(script=echo)
    async with serving(folder, worker) as stack:
        gateway = OpenAiGateway(stack.address, HOST, 0)
        await gateway.start(30.0)
        try:
            yield Api(f"http://{HOST}:{gateway.port}/v1", worker)
        finally:
            await gateway.stop()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = write_folder(tmp_path_factory.mktemp("model"))
    (folder / "generation_config.json").write_text(json.dumps(SAID))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fronting(folder)) as found,
    ):
        yield found


def chosen(sampling: SamplingParams) -> dict[str, float]:
    return {name: getattr(sampling, name) for name in SAID}


def test_a_silent_chat_or_completion_gets_them(api: Api) -> None:
    assert chosen(api.chat()) == SAID
    assert chosen(api.complete()) == SAID


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"extra_body": {"top_k": -1}}, {"top_k": 0}),
        ({"extra_body": {"min_p": 0}}, {"min_p": 0.0}),
        ({"extra_body": {"repetition_penalty": 1}}, {"repetition_penalty": 1.0}),
    ],
)
def test_what_a_client_states_wins(
    api: Api, said: dict[str, Any], expected: dict[str, float]
) -> None:
    assert chosen(api.chat(**said)) == SAID | expected
