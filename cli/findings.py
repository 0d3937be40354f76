"""Findings of the checks of `pdserve doctor`."""

from collections.abc import Iterable
from dataclasses import dataclass

from cli.grid import Column, Grid, Row


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result. A `problem` stops pdserve and names a remedy; a `remark` does not."""

    name: str
    value: str
    problem: str | None = None
    remark: str | None = None


def findings_grid(findings: Iterable[Finding]) -> Grid:
    """Return one row per finding: its name, "ok" or "problem", its value, and what is said of it."""
    columns = (Column("check"), Column("state"), Column("value"), Column("note"))
    rows = [
        Row(
            (
                finding.name,
                "problem" if finding.problem else "ok",
                finding.value,
                finding.problem or finding.remark or "",
            )
        )
        for finding in findings
    ]
    return Grid(columns, rows)
