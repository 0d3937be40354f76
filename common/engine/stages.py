"""Stages of a worker's start, timed in one place.

Slow work gets a `BeginStage` and runs inside `with stage("loading weights"):`. The name is a phrase that
goes on with "took 1.9 s".
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Remark:
    """Result of a stage in words, set while it runs: "24 new, 0 from disk"."""

    text: str = ""


BeginStage = Callable[[str], AbstractContextManager[Remark]]


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage that is over."""

    name: str
    seconds: float
    remark: str = ""

    def __str__(self) -> str:
        remark = f" ({self.remark})" if self.remark else ""
        return f"{self.name} took {self.seconds:.1f} s{remark}"


@dataclass(frozen=True, slots=True)
class Stages:
    """Progress of a start: the stages that are over, in their order, and the one that runs."""

    done: tuple[Stage, ...] = ()
    running: str = ""  # "": none
    age_s: float = 0.0  # of the one that runs


@contextmanager
def untold(name: str) -> Iterator[Remark]:
    """Run a stage for callers that want no times; a BeginStage."""
    yield Remark()


class StageClock:
    """Clock of the stages of one start. One thread runs stages, one after another; any thread may look."""

    def __init__(self) -> None:
        self._done: tuple[Stage, ...] = ()
        self._running: tuple[str, float] | None = None  # and since when

    @contextmanager
    def stage(self, name: str) -> Iterator[Remark]:
        """Run and time a stage; a BeginStage. A stage that raises stays the running one."""
        started_s, remark = time.monotonic(), Remark()
        self._running = name, started_s
        yield remark
        self._done = (*self._done, Stage(name, time.monotonic() - started_s, remark.text))
        self._running = None

    def so_far(self) -> Stages:
        """Return the progress so far."""
        running = self._running  # read once: the other thread may set it
        if running is None:
            return Stages(self._done)
        name, started_s = running
        return Stages(self._done, name, time.monotonic() - started_s)
