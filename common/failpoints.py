"""Named points at which a test makes a process fail; inactive unless PDSERVE_FAILPOINTS names them.

The variable has "name=value,other=value". Every process reads it once. A process that finds a name
that is not in `KNOWN` does not start.
"""

import os
from functools import cache

from pdserve.errors import SetupError

VARIABLE = "PDSERVE_FAILPOINTS"
KNOWN = {
    "abort_at_start": "WORKER or ROLE: the worker aborts before it loads anything",
    "starve_at_start": "WORKER or ROLE: others leave the worker's gentle start no core",
    "step_raises_on_token": "TOKEN: a step that runs this token raises",
    "exit_on_token": "TOKEN: the worker is killed in a step that runs this token",
    "exit_at_step": "WORKER:N: the worker is killed before its N-th step with work, counted from 1",
    "hang_at_step": "WORKER:N: the engine's thread stands still for ever before that step",
    "other_torch": "WORKER:VERSION: the worker says that it runs this version of torch",
    "slow_steps": "WORKER:SECONDS: each step with work takes so much longer; *: of all workers",
}


def value(name: str) -> str | None:
    """Return a failpoint's value; None: inactive. Raises KeyError for a name that `KNOWN` lacks."""
    if name not in KNOWN:
        raise KeyError(name)
    return active().get(name)


def value_for(name: str, worker: str) -> str | None:
    """Return the value behind "WORKER:" of a failpoint that is active for this worker; else None.

    The worker "*" stands for all.
    """
    chosen, _, text = (value(name) or "").rpartition(":")
    return text if chosen in (worker, "*") else None


def check() -> None:
    """Raise SetupError if the environment names an unknown failpoint."""
    if unknown := sorted(active().keys() - KNOWN.keys()):
        raise SetupError(f"{VARIABLE} names {unknown[0]}", f"known are {', '.join(KNOWN)}")


@cache
def active() -> dict[str, str]:
    """Return the failpoints that the environment names, and their values."""
    given = os.environ.get(VARIABLE, "")
    pairs = (part.partition("=") for part in given.split(",") if part)
    return {name: text for name, _, text in pairs}
