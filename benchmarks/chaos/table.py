"""Table of faults in docs/operate/faults.md, from benchmarks/results/faults.json.

Usage: python -m benchmarks.chaos.table. `pdserve chaos --json benchmarks/results/faults.json` writes
the figures.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.environment import RESULTS

FIGURES = RESULTS / "faults.json"
PAGE = Path(__file__).parents[2] / "docs" / "operate" / "faults.md"
BEGIN, END = "<!-- from benchmarks/results/faults.json -->\n", "<!-- end -->\n"
_HEADS = ("fault", "promised", "runs", "requests met", "identical", "gap p50, p99", "recovery p50")


def render(result: Mapping[str, Any]) -> str:
    """Return the table and the line below it, as Markdown."""
    figures = result["figures"]
    rows = [_HEADS, ("---",) * len(_HEADS), *map(_cells, figures["rows"])]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{table}\n{''.join(_below(result, figures))}"


def update(page: str, table: str) -> str:
    """Return the page with another table. Raises ValueError where it has no place for one."""
    before, found, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"no {BEGIN.strip()} ... {END.strip()}")
    return f"{before}{BEGIN}{table}{END}{after}"


def _below(result: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[str]:
    left, environment = figures["remains"], result["environment"]
    yield f"{figures['identical']} of {figures['requests']} answers identical, in "
    yield f"{figures['minutes']:g} minutes with seed {figures['seed']}.\n"
    yield f"Left behind: {left['blocks']} blocks, {left['objects']} objects of Ray, "
    yield f"{figures['processes_left']} processes.\n"
    yield f"Measured on {environment['date']} with {environment['cores']} cores.\n"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    share = f"{100 * row['identical'] / row['requests']:.0f} %" if row["requests"] else "-"
    gaps = f"{_seconds(row['gap_p50_s'])}, {_seconds(row['gap_p99_s'])}"
    return (
        row["fault"],
        row["promise"],
        str(row["runs"] or "-"),
        str(row["requests"]),
        share,
        gaps if row["gap_p50_s"] is not None else "-",
        _seconds(row["recovery_p50_s"]),
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def main() -> None:
    """Rewrite the page."""
    result = json.loads(FIGURES.read_text("utf-8"))
    PAGE.write_text(update(PAGE.read_text("utf-8"), render(result)), "utf-8")


if __name__ == "__main__":
    main()
