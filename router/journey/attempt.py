"""Attempts of a choice: each is one sending to a decode worker."""

from dataclasses import dataclass

from common.timings import WorkTimings
from pdserve.errors import Reason
from router.routing.prediction import Route


@dataclass(slots=True)
class Attempt:
    """Sending of a choice to workers. Times are monotonic; `ended_s` is None while it runs."""

    route: Route
    sent_s: float
    ended_s: float | None = None
    failure: Reason | None = None  # of an attempt that the choice moved on from
    timings: WorkTimings | None = None  # the workers' last report, in seconds since `sent_s`
