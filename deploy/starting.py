"""Waiting for workers that start, and telling how far they are.

1. `start` is called on all of them at once; each one's `home` and `stages` are asked for meanwhile, one
   question at a time, so that one that does not answer is asked no more.
2. A stage that is over is told as a line, those that run are shown together.
3. The first worker that fails ends the wait for all: none serves without the others.
4. The wait has a deadline, and `is_aborted` ends it.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import ray
from ray.exceptions import RayError

from common.engine.stages import Stages
from common.telemetry.logs import get_logger
from deploy.launched import Launched, result_of
from pdserve.errors import SetupError

_POLL_S = 0.25
_LAST_QUESTION_S = 2.0


class StartReport(Protocol):
    """Told about a start as it goes on; from the thread that starts."""

    def now(self, text: str) -> None:
        """What is being waited for; replaces what was said before."""

    def done(self, text: str) -> None:
        """Something is over; stays to be read."""


class LoggedReport:
    """Where there is no terminal to tell: what is over becomes a line of the log."""

    def now(self, text: str) -> None:
        """Ignored."""

    def done(self, text: str) -> None:
        """Logged."""
        get_logger().info("start_stage", text=text)


class Starting:
    """One worker on its way."""

    def __init__(self, worker: Launched) -> None:
        self.worker = worker
        self.started = worker.handle.start.remote()
        self._begun_s = time.monotonic()
        self._home = worker.handle.home.remote()
        self._stages: ray.ObjectRef[Stages] | None = None
        self._seen = Stages()

    def look(self, report: StartReport) -> None:
        """Tell what is new; never waits."""
        if self.worker.home is None:
            self._meet(report)
        elif self._stages is None:
            self._stages = self.worker.handle.stages.remote()
        elif ray.wait([self._stages], timeout=0)[0]:
            self._tell(self._stages, report)
            self._stages = None

    def finish(self, report: StartReport) -> None:
        """Tell what was not told yet, once the worker has started."""
        if self.worker.home is None:
            self._meet(report, _LAST_QUESTION_S)
        self._tell(self.worker.handle.stages.remote(), report)

    def now(self) -> str:
        """What it does, for a live display."""
        seen, age_s = self._seen, time.monotonic() - self._begun_s
        if seen.running:
            age_s = seen.age_s
        return f"{self.worker.name}: {self.doing()} ({age_s:.0f} s)"

    def doing(self) -> str:
        """What it was doing when it was last asked."""
        if self.worker.home is None:
            return "starting its process"
        return self._seen.running or "starting"

    def _meet(self, report: StartReport, timeout_s: float = 0.0) -> None:
        if not ray.wait([self._home], timeout=timeout_s)[0]:
            return
        try:
            home = ray.get(self._home)
        except RayError:  # `started` says it too
            return
        self.worker = replace(self.worker, home=home)
        took_s = time.monotonic() - self._begun_s
        report.done(f"{self.worker.name}: starting its process took {took_s:.1f} s")

    def _tell(self, asked: "ray.ObjectRef[Stages]", report: StartReport) -> None:
        try:
            stages: Stages = ray.get(asked, timeout=_LAST_QUESTION_S)
        except RayError:  # a missing line harms nobody; a dead worker's `started` says so
            return
        for stage in stages.done[len(self._seen.done) :]:
            report.done(f"{self.worker.name}: {stage}")
        self._seen = stages


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker that serves."""

    worker: Launched
    address: str  # of its gRPC server


def await_starts(
    workers: Sequence[Launched], timeout_s: float, is_aborted: threading.Event, report: StartReport
) -> list[Ready]:
    """Start them all at once; in the order given.

    Raises WorkerDiedError for the first that dies, SetupError for one that fails or is not ready in time.
    """
    starting = [Starting(worker) for worker in workers]
    pending, addresses = list(starting), dict[str, str]()
    deadline_s = time.monotonic() + timeout_s
    while pending:
        done, _ = ray.wait([one.started for one in pending], timeout=_POLL_S)
        for one in [one for one in pending if one.started in done]:
            result = result_of(one.started, one.worker, one.doing())
            addresses[one.worker.name] = str(result)
            one.finish(report)
            pending.remove(one)
        for one in pending:
            one.look(report)
        report.now(" · ".join(one.now() for one in pending))
        if pending:
            _check_time(pending[0], timeout_s, deadline_s, is_aborted)
    return [Ready(one.worker, addresses[one.worker.name]) for one in starting]


def _check_time(
    late: Starting, timeout_s: float, deadline_s: float, is_aborted: threading.Event
) -> None:
    if is_aborted.is_set():
        raise SetupError(f"worker {late.worker.name} was not ready: interrupted")
    if time.monotonic() > deadline_s:
        raise SetupError(
            f"worker {late.worker.name} was not ready in {timeout_s} s, still {late.doing()}",
            "raise start_timeout_s",
        )
