"""Life of the gateway's process, over a router with a scripted worker."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import AsyncOpenAI
from structlog.testing import capture_logs

from cli.settings import load_config
from common.config import ServeConfig
from deploy.openai_access import check_usable
from deploy.openai_gateway import OpenAiGateway
from pdserve.errors import SetupError
from tests.integration.support.router_stack import HOST, MODEL, Stack, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder

WITHIN_S = 30.0
# starts a gateway as `pdserve serve` does, prints its pid, and waits to be killed
STARTER = """
import asyncio, sys
from deploy.openai_gateway import OpenAiGateway

async def main():
    gateway = OpenAiGateway(sys.argv[1], "127.0.0.1", 0)
    await gateway.start(30.0)
    print(gateway._process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with serving(write_folder(tmp_path), ScriptedWorker(script=echo)) as found:
        yield found


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "smg" in child.name()]


async def complete(gateway: OpenAiGateway, prompt: str) -> str:
    url = f"http://{HOST}:{gateway.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answer = await client.completions.create(model=MODEL, prompt=prompt)
    return answer.choices[0].text


async def until_logged(logs: list[Any], event: str) -> Any:
    async with asyncio.timeout(WITHIN_S):
        while not (found := [entry for entry in logs if entry["event"] == event]):
            await asyncio.sleep(0.02)
    return found[0]


async def test_it_is_started_again_on_its_port_when_it_dies_and_ended_when_stopped(
    stack: Stack,
) -> None:
    gateway = OpenAiGateway(stack.address, HOST, 0)
    with capture_logs() as logs:
        await gateway.start(WITHIN_S)
        try:
            assert await complete(gateway, "abc") == "abc"
            (first,) = children()
            first.kill()
            death = await until_logged(logs, "openai_gateway_died")
            await until_logged(logs, "openai_gateway_restarted")
            assert await complete(gateway, "again") == "again"
            (second,) = children()
        finally:
            await gateway.stop()
    assert second.pid != first.pid
    assert not children()
    assert death["code"] == -signal.SIGKILL


async def test_it_dies_with_the_process_that_started_it(stack: Stack) -> None:
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, stack.address), stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        child = psutil.Process(int(await starter.stdout.readline()))
        starter.kill()
        await starter.wait()
        await asyncio.to_thread(child.wait, WITHIN_S)


async def test_one_that_cannot_start_is_refused_with_its_last_words(stack: Stack) -> None:
    gateway = OpenAiGateway(stack.address, HOST, 0, "--policy=astrology")
    with pytest.raises(SetupError, match=r"smg ended with code 2: .*invalid choice: 'astrology'"):
        await gateway.start(WITHIN_S)
    assert not children()


async def test_one_without_a_router_is_refused_in_time_and_ended() -> None:
    gateway = OpenAiGateway(f"{HOST}:1", HOST, 0)
    with pytest.raises(SetupError, match=r"smg was not ready in 1\.0 s"):
        await gateway.start(1.0)
    assert not children()


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    check_usable(ServeConfig())
    monkeypatch.setitem(sys.modules, "smg", None)
    with pytest.raises(SetupError, match=r"package smg\. pip install 'pdserve\[openai\]'"):
        check_usable(ServeConfig())


def test_the_port_is_off_until_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config(None, {}).openai_port is None
    monkeypatch.setenv("PDSERVE_OPENAI_PORT", "8000")
    monkeypatch.setenv("PDSERVE_OPENAI_OPTIONS", "--tool-call-parser=qwen")
    config = load_config(None, {})
    assert (config.openai_port, config.openai_options) == (8000, "--tool-call-parser=qwen")


def test_options_that_are_no_command_line_are_refused_by_name() -> None:
    with pytest.raises(SetupError, match="openai_options: No closing quotation"):
        load_config(None, {"openai_options": "--log-dir='/tmp"})
