"""Rates of workers: differences of their counters between two samples about a second apart."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from common.messages import WorkerLoad
from router.workers.view import WorkerView

_NUM_SAMPLES = 5  # four intervals of a quarter of a second


@dataclass(frozen=True, slots=True)
class WorkerRates:
    """Changes per second."""

    steps: float
    prefill_tokens: float
    output_tokens: float
    kv_bytes: float


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    loads: dict[str, WorkerLoad]  # by the worker's incarnation


class WorkerHistory:
    """The latest samples of the workers' counters."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_NUM_SAMPLES)

    def note(self, at_s: float, views: Iterable[WorkerView]) -> None:
        """Add the counters of the workers that are connected; `at_s` is on a monotonic clock."""
        loads = {view.info.incarnation: view.load for view in views if view.is_connected}
        self._samples.append(_Sample(at_s, loads))

    def rates(self, incarnation: str) -> WorkerRates | None:
        """Return a worker's rates; None where the samples do not tell, as after its start."""
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        old, new = first.loads.get(incarnation), last.loads.get(incarnation)
        seconds = last.at_s - first.at_s
        if old is None or new is None or seconds <= 0:
            return None
        return WorkerRates(
            (new.steps - old.steps) / seconds,
            (new.prefill_tokens - old.prefill_tokens) / seconds,
            (new.output_tokens - old.output_tokens) / seconds,
            (new.kv_bytes - old.kv_bytes) / seconds,
        )
