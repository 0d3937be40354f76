"""Time that a start takes, stage by stage: from `pdserve serve` to `pdserve ready`.

Usage: python -m benchmarks.start_times [--rounds N]

Of each round the first start is cold: an empty cache with the model's folder in it. The second is warm. Both
are of one prefill and one decode worker with the default model. CPU seconds are those of all processes
together; they say more than the clock where the machine is shared.
"""

import asyncio
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from common.cache_dir import default_cache_dir
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model

_TIMEOUT_S = 300.0
_STAGE = re.compile(r"(?:(?P<worker>[a-z]+)-\d+: )?(?P<stage>.+?) took (?P<seconds>[\d.]+) s")
# a Ray elsewhere; and bytecode is kept, as an installation has it
_UNSET = {"RAY_ADDRESS", "PYTHONDONTWRITEBYTECODE"}
_READY, _CPU, _LOAD = "ready, s", "CPU of all processes, s", "load average before"


@dataclass(slots=True)
class Start:
    """One start's figures by their name."""

    figures: dict[str, float] = field(default_factory=dict)

    def read(self, line: str) -> None:
        """Take a line that the command printed."""
        if found := _STAGE.match(line):
            worker = f"{found['worker']}: " if found["worker"] else ""
            self.figures[f"{worker}{found['stage']}, s"] = float(found["seconds"])


def main(rounds: Annotated[int, typer.Option(min=1, help="Cold and warm starts each")] = 3) -> None:
    """Measure and write benchmarks/results/start_times.json."""
    console = Console()
    model_dir = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    starts: dict[str, list[Start]] = defaultdict(list)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            _link_model(Path(folder), model_dir)
            for kind in ("cold", "warm"):
                starts[kind].append(asyncio.run(_start(Path(folder))))
                console.print(f"{kind}: {starts[kind][-1].figures}")
    figures = {kind: medians(found) for kind, found in starts.items()}
    figures["each"] = {kind: [one.figures for one in found] for kind, found in starts.items()}
    path = write_result("start_times", figures)
    _print(console, figures["cold"], figures["warm"])
    console.print(f"written to {path.relative_to(Path.cwd())}")


def medians(starts: Sequence[Start]) -> dict[str, object]:
    """Return the median of each figure over the starts that have it; idle stages are not told."""
    names = dict.fromkeys(name for start in starts for name in start.figures)
    return {
        name: round(statistics.median(s.figures[name] for s in starts if name in s.figures), 2)
        for name in names
    }


def _link_model(cache: Path, model_dir: Path) -> None:
    models = cache / "pdserve" / "models"
    models.mkdir(parents=True)
    (models / model_dir.name).symlink_to(model_dir)


async def _start(cache: Path) -> Start:
    start = Start({_LOAD: round(os.getloadavg()[0], 1)})
    environment = {k: v for k, v in os.environ.items() if k not in _UNSET}
    begun_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "pdserve"), "serve", DEFAULT_ALIAS),
        *("--prefill", "1", "--decode", "1", "--grpc-port", "0", "--http-port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment | {"XDG_CACHE_HOME": str(cache)},
    )
    try:
        telling = asyncio.create_task(_read_stages(process, start))
        async with asyncio.timeout(_TIMEOUT_S):
            await _await_ready(process)
        start.figures[_READY] = round(time.monotonic() - begun_s, 2)
        start.figures[_CPU] = round(_cpu_s(process.pid), 2)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
    await telling
    return start


async def _read_stages(process: asyncio.subprocess.Process, start: Start) -> None:
    if process.stderr is None:
        raise RuntimeError("no pipe")
    async for line in process.stderr:
        start.read(line.decode())


async def _await_ready(process: asyncio.subprocess.Process) -> None:
    if process.stdout is None:
        raise RuntimeError("no pipe")
    async for line in process.stdout:
        if line.startswith(b"pdserve ready"):
            return
    raise RuntimeError("pdserve serve ended before it was ready")


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and of all that it started, ended ones included."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def _print(console: Console, cold: Mapping[str, object], warm: Mapping[str, object]) -> None:
    table = Table("figure", "cold", "warm")
    for name in dict.fromkeys((*cold, *warm)):
        table.add_row(name, *(str(figures.get(name, "")) for figures in (cold, warm)))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
