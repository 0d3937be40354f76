"""Outcome of one model type's trial."""

from dataclasses import dataclass
from typing import Literal

# differs: wrong tokens. failed: an error that is no clear refusal. Both are faults of ours.
Verdict = Literal["equal", "refused", "not built", "differs", "failed"]
VERDICTS: tuple[Verdict, ...] = ("equal", "refused", "differs", "failed", "not built")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict on one model type, and the reason in one line where it is not equal."""

    kind: str
    verdict: Verdict
    path: str = ""  # "fused" or "general", where the model ran
    reason: str = ""
