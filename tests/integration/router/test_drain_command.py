"""`pdserve drain` at a router that cannot start workers, only let them go."""

import asyncio
from pathlib import Path

from tests.integration.support.processes import run_cli
from tests.integration.support.router_stack import serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.unit.router.tiny_tokenizer import write_folder


async def test_it_stops_one_worker_or_says_in_one_line_why_not(tmp_path: Path) -> None:
    workers = ScriptedWorker("decode-0"), ScriptedWorker("decode-1")
    async with serving(write_folder(tmp_path), *workers) as stack:

        async def drain(worker: str) -> tuple[int, str, str]:
            args = ("drain", worker, "--address", stack.address)
            ended = await asyncio.to_thread(run_cli, *args)
            return ended.returncode, ended.stdout, ended.stderr

        assert await drain("decode-0") == (0, "stopped decode-0\n", "")
        for worker, why in (
            ("decode-9", "no worker named"),
            ("decode-1", "no decode worker would"),
        ):
            code, said, problem = await drain(worker)
            assert (code, said, problem.count("\n")) == (1, "", 1)
            assert problem.startswith("pdserve: ")
            assert why in problem
        status = await stack.client.status()
    assert [worker.name for worker in status.workers] == ["decode-1"]
