"""What a check of `pdserve doctor` finds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result. A `problem` keeps pdserve from running and says what to do; a `remark` does not."""

    name: str
    value: str
    problem: str | None = None
    remark: str | None = None
