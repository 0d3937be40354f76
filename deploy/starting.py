"""Parallel start of workers, with a report of its progress.

1. All workers start in parallel. A worker's `home` answers when its process runs; then its `start`
   is called, and its `stages` are polled, one call at a time.
2. A finished stage is reported as a line; running stages are shown together.
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
from deploy.versions import check_versions, read_versions
from deploy.worker_process import Home
from pdserve.errors import SetupError

_POLL_S = 0.25
_LAST_QUESTION_S = 2.0


class StartReport(Protocol):
    """Receiver of a start's progress; called from the thread that starts."""

    def now(self, text: str) -> None:
        """Show what the start is waiting for, in place of the text before."""

    def done(self, text: str) -> None:
        """Report a finished stage; the text stays visible."""


class LoggedReport:
    """Report for a process without a terminal: each finished stage becomes a line of the log."""

    def now(self, text: str) -> None:
        """Ignore the text."""

    def done(self, text: str) -> None:
        """Log the text."""
        get_logger().info("start_stage", text=text)


class UnreportedStart:
    """Report of a start that nobody watches; the worker's own log has its stages."""

    def now(self, text: str) -> None:
        """Ignore the text."""

    def done(self, text: str) -> None:
        """Ignore the text."""


class NotReadyInTimeError(SetupError):
    """A worker's start was given up; that says nothing about the worker."""


class Starting:
    """One starting worker: first its process, then the worker in the process."""

    def __init__(self, worker: Launched) -> None:
        self.worker = worker
        self.call: ray.ObjectRef[object] = worker.handle.home.remote()  # awaited
        self._begun_s = time.monotonic()
        self._asked: ray.ObjectRef[Stages] | None = None
        self._seen = Stages()

    def advance(self, report: StartReport) -> str | None:
        """Go on after `call` has ended; return the address if the worker serves.

        Raises as result_of does.
        """
        result = result_of(self.call, self.worker, self.doing())
        if not isinstance(result, Home):
            self._tell(self.worker.handle.stages.remote(), report)
            return str(result)
        self.worker = replace(self.worker, home=result)
        who = f"worker {self.worker.name} on {result.host}"
        check_versions(who, result.versions, read_versions())
        took_s = time.monotonic() - self._begun_s
        report.done(f"{self.worker.name}: starting its process took {took_s:.1f} s")
        self.call = self.worker.handle.start.remote()
        return None

    def look(self, report: StartReport) -> None:
        """Report new stages; never waits."""
        if self.worker.home is None:
            return
        if self._asked is None:
            self._asked = self.worker.handle.stages.remote()
        elif ray.wait([self._asked], timeout=0)[0]:
            self._tell(self._asked, report)
            self._asked = None

    def now(self) -> str:
        """Return the current stage and its age, for a live display."""
        age_s = self._seen.age_s if self._seen.running else time.monotonic() - self._begun_s
        return f"{self.worker.name}: {self.doing()} ({age_s:.0f} s)"

    def doing(self) -> str:
        """Return the stage at the last poll."""
        if self.worker.home is None:
            return "starting its process"
        return self._seen.running or "starting"

    def _tell(self, asked: "ray.ObjectRef[Stages]", report: StartReport) -> None:
        try:
            stages: Stages = ray.get(asked, timeout=_LAST_QUESTION_S)
        except RayError:  # a missing line is harmless, and `call` reports a dead worker
            return
        for stage in stages.done[len(self._seen.done) :]:
            report.done(f"{self.worker.name}: {stage}")
        self._seen = stages


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker that serves."""

    worker: Launched
    address: str  # of the worker's gRPC server


def await_starts(
    workers: Sequence[Launched], timeout_s: float, is_aborted: threading.Event, report: StartReport
) -> list[Ready]:
    """Start all workers at once and wait; return them in the given order.

    Raises WorkerDiedError for the first that dies, SetupError for one that fails or is not ready in
    time.
    """
    starting = [Starting(worker) for worker in workers]
    pending, addresses = list(starting), dict[str, str]()
    deadline_s = time.monotonic() + timeout_s
    while pending:
        done, _ = ray.wait([one.call for one in pending], timeout=_POLL_S)
        for one in [one for one in pending if one.call in done]:
            address = one.advance(report)
            if address is not None:
                addresses[one.worker.name] = address
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
        raise NotReadyInTimeError(f"worker {late.worker.name} was not ready: interrupted")
    if time.monotonic() > deadline_s:
        raise NotReadyInTimeError(
            f"worker {late.worker.name} was not ready in {timeout_s} s, still {late.doing()}",
            "raise start_timeout_s" if late.worker.home else "look at `ray status` and Ray's logs",
        )
