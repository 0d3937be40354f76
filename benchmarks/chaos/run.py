"""One chaos run: a deployment of its own, users, random faults one after another, and a report.

1. Each question is asked once before any fault.
2. A second router joins, to which half of the users go first. Users ask for `minutes`. Meanwhile a
   fault strikes, and the next one when it is over: all workers serve again, and 0.5 to 3 s have passed.
3. Then nothing may be left: no request, no block, no object, and after the end no process.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import psutil

from benchmarks.chaos.connections import can_cut
from benchmarks.chaos.faults import FAULTS, Fault
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.joined_router import joined_router
from benchmarks.chaos.load import Load, ask_undisturbed
from benchmarks.chaos.questions import Sizes, draw_questions
from benchmarks.chaos.report import Remains, Report, Run, make_report
from benchmarks.chaos.store import StoreUse, auth, store_use
from benchmarks.pdserve_server import logged_deployment
from pdserve.client import AsyncClient

_POLICY = ("--policy", "least_loaded")
_FLAGS = ("--prefill", "1", "--decode", "2", "--dtype", "float32", *_POLICY)
_SETTINGS = {
    "PDSERVE_ENGINE__KV_CACHE_GIB": "0.2",
    "PDSERVE_ROUTER__WATCHDOG_S": "10",
    "PDSERVE_ROUTER__MAX_WAIT_S": "0",
    # here faults follow each other, and one request may meet many
    "PDSERVE_ROUTER__MAX_WORKER_DEATHS": "1000",
    "PDSERVE_ROUTER__MAX_OUTAGE_S": "600",
    "PDSERVE_START_TIMEOUT_S": "300",
}
_SIZES = Sizes(words=(12, 200), tokens=(12, 60))
_PAUSE_S = (0.5, 3.0)
_SETTLE_S, _WHOLE_WITHIN_S, _END_WITHIN_S = 30.0, 300.0, 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run depends on, but for the machine."""

    model: str
    seed: int
    minutes: float
    users: int
    per_kind: int = 4  # distinct questions


class Chaos:
    """A run under way. A view may read it at any time."""

    def __init__(self, plan: Plan, fleet: Fleet, load: Load) -> None:
        self.now = ""  # the fault that is not over
        self.runs: list[Run] = []
        self.until_s = time.monotonic() + plan.minutes * 60
        self.load = load
        self._fleet = fleet
        self._draw = random.Random(plan.seed + 1)
        self._users = plan.users

    async def run(self) -> None:
        """Ask and strike till the end. Raises TimeoutError when a worker does not come back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.load.run(self._users, self.until_s))
            group.create_task(self._strike_all())

    async def _strike_all(self) -> None:
        faults = [fault for fault in FAULTS if "cut" not in fault.name or can_cut()]
        while True:
            self._draw.shuffle(faults)  # each comes once in a round
            for fault in faults:
                await asyncio.sleep(self._draw.uniform(*_PAUSE_S))
                if time.monotonic() > self.until_s:
                    return
                await self._strike(fault)

    async def _strike(self, fault: Fault) -> None:
        self.now = fault.name
        strike = await fault.strike(self._fleet, self._draw)
        for asking in strike.askings:
            asking.struck[fault.name] = strike.at_s
        await self._fleet.until_whole(strike.replaced, _WHOLE_WITHIN_S)
        self.runs.append(Run(fault.name, time.monotonic() - strike.at_s))
        self.now = ""


async def run(plan: Plan, log: IO[str], on_start: Callable[[Chaos], None]) -> Report:
    """Carry a plan out; the deployment writes to `log`. Raises RuntimeError, TimeoutError, OSError."""
    token = secrets.token_hex(32)  # of the private Ray
    settings = _SETTINGS | {"RAY_AUTH_TOKEN": token}
    async with (
        logged_deployment(log, (plan.model, *_FLAGS), settings) as served,
        AsyncClient(served.address) as client,
    ):
        fleet = Fleet(client, served.address, served.router_pid)
        draw = random.Random(plan.seed)
        questions = draw_questions(draw, plan.per_kind, _SIZES)
        expected = await ask_undisturbed(fleet, questions)
        load = Load(fleet, expected, draw)
        before = await store_use(fleet, token)
        joining = ("--ray-address", fleet.gcs_address(), *_POLICY)
        async with joined_router(log, joining, settings | auth(token)) as fleet.joined:
            chaos = Chaos(plan, fleet, load)
            on_start(chaos)
            await chaos.run()
            remains = await _look_at_remains(fleet, before, token)
        fleet.joined = None
    processes = await asyncio.to_thread(_count_left, fleet)
    return make_report(chaos.runs, load.ended, expected, remains, processes)


async def _look_at_remains(fleet: Fleet, before: StoreUse, token: str) -> Remains:
    status = await fleet.until_at_rest(_SETTLE_S)
    ledgers = (await fleet.client.blocks(timeout=30.0)).workers
    after = await store_use(fleet, token, before.num_held)
    others = [await router.status(timeout=30.0) for router in fleet.routers[1:]]
    return Remains.of([status, *others], ledgers, before, after)


def _count_left(fleet: Fleet) -> int:
    with suppress(psutil.Error):
        _, alive = psutil.wait_procs(fleet.seen, timeout=_END_WITHIN_S)
        return len(alive)
    return 0
