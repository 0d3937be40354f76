"""Results of `benchmarks.goodput` and `benchmarks.routing`: written, read, printed and drawn."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.goodput.search import Search
from benchmarks.slo_attainment import Slo

Goodputs = dict[str, dict[str, float]]  # requests/s by case and system


@dataclass(frozen=True, slots=True)
class GoodputResult:
    """One run; everything printed and drawn is computed from it."""

    load: str  # source of the requests
    seed: int
    peer: str | None
    seconds: float  # duration of the requests at each rate
    slo: Slo
    medians: Goodputs
    ratios: Goodputs  # as in the table's columns
    searches: list[Search]

    def write(self, name: str) -> Path:
        """Write benchmarks/results/NAME.json; return its path."""
        return write_result(name, asdict(self))


@dataclass(frozen=True, slots=True)
class _File:
    figures: GoodputResult


def read_result(path: Path) -> GoodputResult:
    """Read a file of `write`.

    Raises FileNotFoundError, or ValidationError for another kind of file.
    """
    return TypeAdapter(_File).validate_json(path.read_bytes()).figures


def medians(searches: list[Search]) -> Goodputs:
    """Return the median goodput over the rounds."""
    systems = dict.fromkeys(search.system for search in searches)
    return {
        case: {system: _median(searches, case, system) for system in systems}
        for case in dict.fromkeys(search.case for search in searches)
    }


def ratios(goodputs: Goodputs, to: Iterable[str]) -> Goodputs:
    """Return each system's goodput over the best of `to`; omitted if that is 0."""
    bases = {case: max(values[system] for system in to) for case, values in goodputs.items()}
    return {
        case: {system: value / bases[case] for system, value in values.items()}
        for case, values in goodputs.items()
        if bases[case]
    }


def table(result: GoodputResult, ratio_to: str) -> Table:
    """Return a table with a row a system and a column a case."""
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
