"""What `benchmarks.goodput` and `benchmarks.routing` write, print and draw."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.table import Table

from benchmarks.attainment import Slo
from benchmarks.environment import write_result
from benchmarks.goodput.search import Search

Goodputs = dict[str, dict[str, float]]  # requests/s of each case and system


@dataclass(frozen=True, slots=True)
class GoodputResult:
    """One run. Everything printed and drawn is computed from it."""

    load: str  # where the requests come from
    seed: int
    peer: str | None
    seconds: float  # of requests, for each rate
    slo: Slo
    medians: Goodputs
    ratios: Goodputs  # as the columns of the table say
    searches: list[Search]

    def write(self, name: str) -> Path:
        """Into benchmarks/results/NAME.json."""
        return write_result(name, asdict(self))


@dataclass(frozen=True, slots=True)
class _File:
    figures: GoodputResult


def read_result(path: Path) -> GoodputResult:
    """What `write` wrote. Raises FileNotFoundError, or ValidationError for another file."""
    return TypeAdapter(_File).validate_json(path.read_bytes()).figures


def medians(searches: list[Search]) -> Goodputs:
    """Goodput over the rounds."""
    systems = dict.fromkeys(search.system for search in searches)
    return {
        case: {system: _median(searches, case, system) for system in systems}
        for case in dict.fromkeys(search.case for search in searches)
    }


def ratios(goodputs: Goodputs, to: Iterable[str]) -> Goodputs:
    """Each system's goodput over the best of the systems `to`; left out where that is 0."""
    bases = {case: max(values[system] for system in to) for case, values in goodputs.items()}
    return {
        case: {system: value / bases[case] for system, value in values.items()}
        for case, values in goodputs.items()
        if bases[case]
    }


def table(result: GoodputResult, ratio_to: str) -> Table:
    """A row a system, a column a case."""
    shown = Table(
        "requests/s",
        *result.medians,
        title=f"goodput: 90 % with TTFT <= {result.slo.ttft_s} s and TPOT <= {result.slo.tpot_s} s",
        caption=f"in brackets: over {ratio_to}; {result.load}",
    )
    for system in next(iter(result.medians.values())):
        shown.add_row(system, *(_cell(result, case, system) for case in result.medians))
    return shown


def _median(searches: list[Search], case: str, system: str) -> float:
    return statistics.median(
        search.goodput_per_s
        for search in searches
        if search.case == case and search.system == system
    )


def _cell(result: GoodputResult, case: str, system: str) -> str:
    ratio = result.ratios.get(case, {}).get(system)
    shown = "" if ratio is None else f" ({ratio:.2f})"
    return f"{result.medians[case][system]:.2f}{shown}"
