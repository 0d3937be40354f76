"""Outcome of one model type's trial."""

import json
from dataclasses import dataclass
from typing import Literal

from benchmarks.environment import RESULTS

RESULT = "model_survey"

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


def to_row(outcome: Outcome) -> dict[str, str]:
    """Return the outcome as the results' file has it."""
    fields = (outcome.kind, outcome.verdict, outcome.path, outcome.reason)
    return dict(zip(("model_type", "verdict", "path", "reason"), fields, strict=True))


def known_outcomes() -> dict[str, Outcome]:
    """Return the outcomes in the results' file, by model type."""
    rows = json.loads((RESULTS / f"{RESULT}.json").read_text("utf-8"))["figures"]
    found = [Outcome(r["model_type"], r["verdict"], r["path"], r["reason"]) for r in rows]
    return {outcome.kind: outcome for outcome in found}
