"""Systems that the benchmarks compare: their start, and the scenarios of `benchmarks.peers`."""

import asyncio
import contextlib
import json
import sys
import tempfile
import urllib.request
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load_generator import OnDone, Target, closed_loop, summarise
from benchmarks.load_targets import OpenAITarget, PdserveTarget
from benchmarks.pdserve_server import serving
from benchmarks.peers.transformers_peer import Mode
from benchmarks.workload import Work, random_works
from pdserve.client import AsyncClient

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A closed loop of a number of users; its requests depend only on the round."""

    name: str
    users: int
    requests: int
    inputs: tuple[int, int] = (128, 384)
    outputs: tuple[int, int] = (32, 96)

    def works(self, seed: int) -> list[Work]:
        """Return prompts that are new in each round and scenario, so that no cache has them."""
        return random_works(self.requests, seed + self.users, self.inputs, self.outputs)


MANY = Scenario("32 users", 32, 96)
ONE = Scenario("1 user", 1, 6)
LONG = Scenario("prefill of 2000", 1, 5, (2000, 2000), (2, 2))
SCENARIOS = (MANY, ONE, LONG)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that receives a load."""

    name: str
    connect: Callable[[], AbstractAsyncContextManager[Target]]

    @property
    def num_requests(self) -> int:
        """The requests in one round."""
        return sum(scenario.requests for scenario in SCENARIOS)

    async def run(self, seed: int, on_done: OnDone) -> dict[str, Figures]:
        """Run every scenario once."""
        async with self.connect() as target:
            warm_up = random_works(4, seed + 99, (16, 600), (4, 8))
            await closed_loop(target, warm_up, 4, lambda: None)
            return {
                scenario.name: summarise(
                    await closed_loop(target, scenario.works(seed), scenario.users, on_done)
                )
                for scenario in SCENARIOS
            }


@dataclass(frozen=True, slots=True)
class Offline:
    """`transformers` on the first requests of the list for 32 users, all known in advance."""

    name: str
    mode: Mode
    num_requests: int
    model_dir: Path

    async def run(self, seed: int, on_done: OnDone) -> dict[str, Figures]:
        """Run one round; the time to load the model is not counted."""
        works = MANY.works(seed)[: self.num_requests]
        seconds = await _run_transformers(self.mode, self.model_dir, works)
        for _ in works:
            on_done()
        figures = {
            "output tok/s": sum(work.output_tokens for work in works) / seconds,
            "total tok/s": sum(work.total_tokens for work in works) / seconds,
        }
        return {MANY.name: figures}


async def _run_transformers(mode: Mode, model_dir: Path, works: list[Work]) -> float:
    listed = [{"prompt": work.prompt_token_ids, "outputs": work.output_tokens} for work in works]
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "works.json"), Path(folder, "seconds.json")
        source.write_text(json.dumps(listed))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{__package__}.peers.transformers_peer"),
            *(mode.value, str(model_dir), str(source), str(result)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        if process.returncode:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"transformers, {mode.value}: {last}")
        seconds: float = json.loads(result.read_text())
        return seconds


def pdserve(name: str, *args: str, **settings: str) -> Server:
    """Return pdserve, started for each round by `benchmarks.pdserve_server.deployment`."""

    @contextlib.asynccontextmanager
    async def connect() -> AsyncGenerator[Target]:
        async with serving(*args, **settings) as address, AsyncClient(address) as client:
            yield PdserveTarget(client)

    return Server(name, connect)


def openai_server(name: str, url: str, model: str) -> Server:
    """Return a server that somebody else has started."""

    @contextlib.asynccontextmanager
    async def connect() -> AsyncGenerator[Target]:
        yield OpenAITarget(url, model)

    return Server(name, connect)


def server_version(url: str) -> str:
    """Return a server's version from /version, as vLLM answers; "" if there is none."""
    try:
        with urllib.request.urlopen(f"{url}/version", timeout=10) as answer:
            version: str = json.load(answer)["version"]
            return version
    except (OSError, ValueError, KeyError):
        return ""
