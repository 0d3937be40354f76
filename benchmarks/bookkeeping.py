"""Cost of what survives faults, as a share of a deployment's processor time.

Usage: python -m benchmarks.bookkeeping. Three parts, each counted in full:

1. For each token: a worker keeps the outputs of a router's requests (KeptOutputs), and the router notes
   how far each request is, so that it can go on elsewhere. Both are timed alone. A router without
   faults would need some of that too.
2. All the time: the supervisor's process, and the watches of a router. That is all that a deployment
   without requests uses there, so it counts other work as well.
3. The tokens that the deployment makes meanwhile, under load.
"""

import asyncio
import time
from collections.abc import Callable

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.fleet import Fleet
from benchmarks.environment import write_result
from benchmarks.load_generator import closed_loop
from benchmarks.load_targets import PdserveTarget
from benchmarks.pdserve_server import deployment
from benchmarks.workload import random_works
from common.messages import SequenceOutput
from common.rpc.kept_outputs import KeptOutputs
from pdserve.client import AsyncClient
from router.workers.open_work import Open
from router.workers.silence import Silence

_STREAMS, _STEPS, _REPEATS = 32, 2000, 7
_SUPERVISOR = "SupervisorActor"


def main(
    model: str = "smollm2-135m", requests: int = 96, users: int = 32, idle_s: float = 20.0
) -> None:
    """Measure, print a table, write benchmarks/results/bookkeeping.json."""
    parts_ns = {"worker keeps outputs": _kept_ns(), "router notes progress": _noted_ns()}
    served = asyncio.run(_serve(model, requests, users, idle_s))
    busy = served["loaded: all processes, CPU s/s"]
    token_s = sum(parts_ns.values()) / 1e9 * served["tokens/s"]
    share = (token_s + served["idle: supervisor, CPU s/s"]) / busy
    most = share + served["idle: router, CPU s/s"] / busy
    figures = {
        "ns a token": parts_ns,
        "deployment": served,
        "share of processor time": share,
        "with all that an idle router does": most,
    }
    path = write_result("bookkeeping", figures)
    table = Table(
        "part", "cost", title=f"{share:.2%} of processor time, {most:.2%} with an idle router"
    )
    for name, value in parts_ns.items():
        table.add_row(name, f"{value:.0f} ns a token")
    for name, value in served.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table, f"written to {path}")


def _kept_ns() -> float:
    """Return the nanoseconds in which a worker keeps one token for a router that may attach again."""
    names = [f"router-request-{number}" for number in range(_STREAMS)]
    kept = {name: KeptOutputs(name, 1) for name in names}

    def step() -> None:
        for name in names:
            kept[name].add(SequenceOutput(name, 0, (7,)))

    def bare() -> None:
        for name in names:
            SequenceOutput(name, 0, (7,))

    return _cpu_ns(step) - _cpu_ns(bare)


def _noted_ns() -> float:
    """Return the nanoseconds in which a router notes one token of a request that may move."""
    outputs = [SequenceOutput(f"request-{number}", 5, (7,)) for number in range(_STREAMS)]
    found = [(Open(None, None), list[int]()) for _ in outputs]  # type: ignore[arg-type]  # unused
    silence = Silence()

    def step() -> None:
        silence.heard()
        for output, (work, token_ids) in zip(outputs, found, strict=True):
            work.unheard, work.next_index = None, output.index + len(output.token_ids)
            token_ids += output.token_ids

    def bare() -> None:
        for _ in zip(outputs, found, strict=True):
            pass

    return _cpu_ns(step) - _cpu_ns(bare)


def _cpu_ns(step: Callable[[], None]) -> float:
    """Return the thread's processor time for each of a step's streams; the least of some repeats."""
    least_ns = float("inf")
    for _ in range(_REPEATS):
        begun_ns = time.thread_time_ns()
        for _ in range(_STEPS):
            step()
        least_ns = min(least_ns, time.thread_time_ns() - begun_ns)
    return least_ns / _STEPS / _STREAMS


async def _serve(model: str, requests: int, users: int, idle_s: float) -> dict[str, float]:
    flags = ("--prefill", "1", "--decode", "1")
    settings = {"PDSERVE_ROUTER__MAX_WAIT_S": "0", "PDSERVE_START_TIMEOUT_S": "300"}
    async with (
        deployment(model, *flags, **settings) as served,
        AsyncClient(served.address) as client,
    ):
        fleet, target = Fleet(client, served.address, served.router_pid), PdserveTarget(client)
        router, supervisor = psutil.Process(served.router_pid), fleet.process(_SUPERVISOR)
        await closed_loop(target, random_works(users, seed=1), users, lambda: None)
        router_s, supervisor_s = _cpu_s(router), _cpu_s(supervisor)
        await asyncio.sleep(idle_s)
        found = {
            "idle: router, CPU s/s": (_cpu_s(router) - router_s) / idle_s,
            "idle: supervisor, CPU s/s": (_cpu_s(supervisor) - supervisor_s) / idle_s,
        }
        works, processes = random_works(requests, seed=2), fleet.processes()
        before_s, begun_s = sum(map(_cpu_s, processes)), time.monotonic()
        await closed_loop(target, works, users, lambda: None)
        took_s = time.monotonic() - begun_s
        busy_s = sum(map(_cpu_s, processes)) - before_s
    num_tokens = sum(work.output_tokens for work in works)
    return found | {
        "loaded: all processes, CPU s/s": busy_s / took_s,
        "tokens/s": num_tokens / took_s,
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    typer.run(main)
