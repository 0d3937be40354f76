"""Findings of the checks of `pdserve doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result. A `problem` stops pdserve and names a remedy; a `remark` does not."""

    name: str
    value: str
    problem: str | None = None
    remark: str | None = None
