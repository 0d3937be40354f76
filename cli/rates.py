"""Rates of a deployment: differences of its counters between two polls of its status."""

from dataclasses import dataclass

from pdserve.errors import RequestError
from pdserve.v1 import admin_pb2


@dataclass(frozen=True, slots=True)
class Poll:
    """One answer of the router; `at_s` is of a monotonic clock."""

    at_s: float
    status: admin_pb2.StatusResponse


@dataclass(frozen=True, slots=True)
class Frame:
    """Two polls, the earlier one None at the start; `problem` is why a later poll failed."""

    now: Poll
    before: Poll | None = None
    problem: RequestError | None = None


@dataclass(frozen=True, slots=True)
class RouterRates:
    """Requests per second; None where two polls do not tell."""

    completed: float | None = None
    rejected: float | None = None
    failed: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerRates:
    """Tokens per second; None where two polls do not tell."""

    prefill_tokens: float | None = None
    output_tokens: float | None = None


def router_rates(frame: Frame) -> RouterRates:
    """Return the rates of requests, by how they ended."""
    if frame.before is None:
        return RouterRates()
    seconds = frame.now.at_s - frame.before.at_s
    old, new = frame.before.status.router.totals, frame.now.status.router.totals
    return RouterRates(
        _rate(old.completed, new.completed, seconds),
        _rate(old.rejected, new.rejected, seconds),
        _rate(old.failed, new.failed, seconds),
    )


def worker_rates(frame: Frame) -> list[WorkerRates]:
    """Return the rates of the workers, in their order; of none that started since the last poll."""
    if frame.before is None:
        return [WorkerRates()] * len(frame.now.status.workers)
    seconds = frame.now.at_s - frame.before.at_s
    earlier = {w.incarnation: w for w in frame.before.status.workers if w.HasField("load")}
    found = []
    for worker in frame.now.status.workers:
        old = earlier.get(worker.incarnation)
        if old is None or not worker.HasField("load"):
            found.append(WorkerRates())
            continue
        prefill = _rate(old.load.prefill_tokens, worker.load.prefill_tokens, seconds)
        output = _rate(old.load.output_tokens, worker.load.output_tokens, seconds)
        found.append(WorkerRates(prefill, output))
    return found


def _rate(old: int, new: int, seconds: float) -> float | None:
    """Return the rate of a counter; None if it began anew."""
    return (new - old) / seconds if new >= old and seconds > 0 else None
