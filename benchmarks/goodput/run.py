"""Goodput search of several systems in turns, case by case."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rich.progress import Progress

from benchmarks.compared_systems import Server
from benchmarks.goodput.search import Probes, Search, goodput, nearest_rung, next_rung, rate_of
from benchmarks.load_generator import OnDone, Target, closed_loop
from benchmarks.slo_attainment import Attainment, Slo, attainment
from benchmarks.workload import Shape, offered_at, random_works

SLO = Slo()
# SLOs given to pdserve: a little tighter, since a client also sees the network's delay
TARGETS = {
    "PDSERVE_ENGINE__TTFT_TARGET_S": str(0.9 * SLO.ttft_s),
    "PDSERVE_ENGINE__ITL_TARGET_S": str(0.8 * SLO.tpot_s),
}
_FEWEST = 20  # requests at each rate; with 10 of them, one request would change the result


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of load. `shapes(count, seed)`: longer lists of a seed begin like shorter ones."""

    name: str
    first_rung: int  # expected goodput
    shapes: Callable[[int, int], list[Shape]]


async def measure(
    systems: list[Server], cases: list[Case], rounds: int, seconds: float, seed: int
) -> list[Search]:
    """Run all searches. Each round starts with another system, each search where the last ended.

    Within a round every system gets the same requests: `seconds` of them at each rate, but at least
    20.
    """
    found: list[Search] = []
    with Progress() as progress:
        task = progress.add_task("searches", total=rounds * len(systems) * len(cases))
        for number in range(rounds):
            turn = number % len(systems)
            for system in systems[turn:] + systems[:turn]:
                async with system.connect() as target:
                    warm_up = random_works(8, seed + number, (16, 600), (4, 16))
                    await closed_loop(target, warm_up, 4, lambda: None)
                    for case in cases:
                        search = _Searcher(target, case, seed + 1 + number, seconds, progress)
                        first = _first_rung(found, system.name, case)
                        probes = await search.run(f"{system.name}, {case.name}", first)
                        found.append(_result(case.name, system.name, number, probes))
                        progress.advance(task)
    return found


@dataclass(frozen=True, slots=True)
class _Searcher:
    """Search for one system's goodput in one case and round."""

    target: Target
    case: Case
    seed: int
    seconds: float
    progress: Progress

    async def run(self, label: str, first: int) -> Probes:
        probes: Probes = {}
        while (rung := next_rung(probes, first)) is not None:
            count = max(_FEWEST, round(rate_of(rung) * self.seconds))
            task = self.progress.add_task(f"{label}: {rate_of(rung):.2f}/s", total=count)
            probes[rung] = await self._probe(rung, count, partial(self.progress.advance, task))
            self.progress.remove_task(task)
        return probes

    async def _probe(self, rung: int, count: int, on_done: OnDone) -> Attainment:
        # new text at each rate, so that a prefix cache has nothing of the rate before
        text_seed = f"{self.seed}/{self.case.name}/{rung}"
        works = offered_at(self.case.shapes(count + 1, self.seed), rate_of(rung), text_seed)
        outcome = await attainment(self.target, works, rate_of(rung), SLO, on_done)
        # when this is answered, the server has dropped the requests that were cancelled at the end
        await closed_loop(self.target, random_works(1, rung, (16, 16), (2, 2)), 1, lambda: None)
        return outcome


def _result(case: str, system: str, round_number: int, probes: Probes) -> Search:
    by_rate = tuple(probes[rung] for rung in sorted(probes))
    return Search(case, system, round_number, goodput(probes), by_rate)


def _first_rung(found: list[Search], system: str, case: Case) -> int:
    own = [s.goodput_per_s for s in found if (s.case, s.system) == (case.name, system)]
    return nearest_rung(own[-1]) if own and own[-1] else case.first_rung
