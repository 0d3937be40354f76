"""Deployment under more load than it can serve.

1. `find_capacity` searches the rate at which 90 % of requests meet both SLOs, on goodput's ladder.
2. `run`, several times: that rate; ten times that rate, then a few probes; then two tenants, of
   which one sends nine times its fair share and the other just its share.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import Progress

from benchmarks.goodput.search import Probes, goodput, nearest_rung, next_rung, rate_of
from benchmarks.overload.client import Answer, Caller, calling
from benchmarks.overload.figures import (
    Offered,
    arrived_after,
    fairness,
    ratio,
    recovery_s,
    summarise,
)
from benchmarks.overload.figures import attained as to_attainment
from benchmarks.pdserve_server import deployment
from benchmarks.process_memory import Resident, watch
from benchmarks.slo_attainment import Attainment, Slo
from benchmarks.workload import Work, random_works
from pdserve.client import AsyncClient
from router.access.access_file import access_line, make_token
from router.access.tenant import Tenant

SLO = Slo()
OVERLOAD = 10
MAX_WAIT_S = 10.0  # a short queue and early refusals; by default every request waits
_HEAVY, _LIGHT = 9, 1  # times a fair share, which is half of the capacity
_LEAD_IN_S = 5.0  # not counted: an idle server accepts a queue's worth more
_RECOVERY_S = 10.0
_PROBE_S, _FEWEST = 20.0, 20
_FIRST_RATE = 2.0


@dataclass(frozen=True, slots=True)
class Fairness:
    """Result of two tenants of equal weight."""

    heavy: Offered
    light: Offered
    jain: float | None  # as `fairness` returns


@dataclass(frozen=True, slots=True)
class Round:
    """All figures of one round."""

    at_capacity: Offered
    overloaded: Offered
    goodput_ratio: float | None  # None: nothing was served in time at capacity either
    recovery_s: float | None  # None: none within the observed time
    recovered_share: float  # of the requests after the overload that met both SLOs
    memory: dict[str, Resident]  # during the overload and the recovery
    fairness: Fairness


@dataclass(frozen=True, slots=True)
class Bench:
    """A deployment, its callers, and a progress bar that counts answers."""

    heavy: Caller
    light: Caller
    pids: dict[str, int]
    progress: Progress

    async def find_capacity(self, seed: int) -> tuple[float, list[Attainment]]:
        """Return the capacity in requests per second, and the result of each rate measured."""
        probes: Probes = {}
        while (rung := next_rung(probes, nearest_rung(_FIRST_RATE))) is not None:
            rate = rate_of(rung)
            works = random_works(max(_FEWEST, round(rate * _PROBE_S)), seed + rung, rate_per_s=rate)
            answers = await self._offer(f"capacity: {rate:.2f}/s", self.heavy, works)
            probes[rung] = to_attainment(answers, rate, SLO)
        return goodput(probes), [probes[rung] for rung in sorted(probes)]

    async def run(self, capacity: float, seconds: float, seed: int) -> Round:
        """Run one round; `seconds` of each load are counted, after a lead-in."""
        works = _arrivals(capacity, seconds, seed)
        answers = await self._offer("at capacity", self.heavy, works)
        at_capacity = _summarise(answers, seconds)
        works, end_s = _arrivals(OVERLOAD * capacity, seconds, seed + 1), _LEAD_IN_S + seconds
        with watch(self.pids) as memory:
            answers, probes = await asyncio.gather(
                self._offer(f"{OVERLOAD} x capacity", self.heavy, works),
                self._offer("afterwards", self.heavy, _probes(capacity, end_s, seed + 2)),
            )
        overloaded = _summarise(answers, seconds)
        return Round(
            at_capacity,
            overloaded,
            ratio(overloaded.goodput_per_s, at_capacity.goodput_per_s),
            recovery_s(probes, end_s, SLO),
            sum(probe.meets(SLO) for probe in probes) / len(probes),
            memory,
            await self._share(capacity / 2, seconds, seed + 3),
        )

    async def _share(self, fair_rate: float, seconds: float, seed: int) -> Fairness:
        heavy, light = await asyncio.gather(
            self._offer(
                f"tenant with {_HEAVY} x",
                self.heavy,
                _arrivals(_HEAVY * fair_rate, seconds, seed),
            ),
            self._offer(
                f"tenant with {_LIGHT} x",
                self.light,
                _arrivals(_LIGHT * fair_rate, seconds, seed + 1),
            ),
        )
        of_heavy, of_light = _summarise(heavy, seconds), _summarise(light, seconds)
        return Fairness(of_heavy, of_light, fairness([of_heavy, of_light]))

    async def _offer(self, label: str, caller: Caller, works: list[Work]) -> list[Answer]:
        task = self.progress.add_task(label, total=len(works))
        answers = await caller.offer(works, SLO, partial(self.progress.advance, task))
        self.progress.remove_task(task)
        return answers


@asynccontextmanager
async def bench(progress: Progress) -> AsyncGenerator[Bench]:
    """Yield 1 prefill and 1 decode worker with the default model, two tenants and an admin."""
    tokens = {Tenant("heavy"): make_token(), Tenant("light"): make_token()}
    admin_token = make_token()
    lines = [access_line(*item) for item in tokens.items()]
    lines.append(access_line(Tenant("ops", is_admin=True), admin_token))
    async with AsyncExitStack() as stack:
        access_file = Path(stack.enter_context(TemporaryDirectory()), "access")
        access_file.write_text("\n".join(lines))
        arguments = ("--prefill", "1", "--decode", "1", "--access-file", str(access_file))
        server = deployment(*arguments, PDSERVE_ROUTER__MAX_WAIT_S=str(MAX_WAIT_S))
        served = await stack.enter_async_context(server)
        heavy, light = [
            await stack.enter_async_context(calling(served.address, token))
            for token in tokens.values()
        ]
        client = await stack.enter_async_context(AsyncClient(served.address, token=admin_token))
        workers = (await client.status()).workers
        pids = {"router": served.router_pid} | {worker.name: worker.pid for worker in workers}
        await heavy.offer(random_works(8, 0, rate_per_s=1.0), SLO, lambda: None)
        yield Bench(heavy, light, pids, progress)


def _arrivals(rate_per_s: float, seconds: float, seed: int) -> list[Work]:
    """Return Poisson arrivals for the lead-in and `seconds` more."""
    lasts_s = _LEAD_IN_S + seconds
    works = random_works(round(rate_per_s * lasts_s * 1.5) + 20, seed, rate_per_s=rate_per_s)
    return [work for work in works if work.arrival_s < lasts_s]


def _probes(capacity: float, start_s: float, seed: int) -> list[Work]:
    """Return requests at half of the capacity, at even gaps, from `start_s` on."""
    number = max(round(capacity / 2 * _RECOVERY_S), 1)
    works, gap_s = random_works(number, seed), _RECOVERY_S / number
    return [
        Work(work.prompt_token_ids, work.output_tokens, start_s + gap_s * place)
        for place, work in enumerate(works)
    ]


def _summarise(answers: list[Answer], seconds: float) -> Offered:
    return summarise(arrived_after(answers, _LEAD_IN_S), seconds, SLO)
