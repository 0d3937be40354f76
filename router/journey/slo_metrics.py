"""Goodput: accepted requests that met their service-level objective (SLO), and why others did not.

DistServe (Zhong et al. 2024) counts a request as good if its time to the first token (TTFT) and its
time for each later token (TPOT) are both within their limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge


class SloResult(StrEnum):
    """Values of the label `result`."""

    MET = "met"
    MISSED_TTFT = "missed_ttft"
    MISSED_TPOT = "missed_tpot"
    MISSED_BOTH = "missed_both"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in seconds; None: any time will do."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    def judge(self, ttft_s: float, tpot_s: float | None) -> SloResult:
        """Return the result of one choice; without a second token its TPOT is within any limit."""
        is_late = self.ttft_s is not None and ttft_s > self.ttft_s
        is_slow = self.tpot_s is not None and tpot_s is not None and tpot_s > self.tpot_s
        if is_late:
            return SloResult.MISSED_BOTH if is_slow else SloResult.MISSED_TTFT
        return SloResult.MISSED_TPOT if is_slow else SloResult.MET


class SloMetrics:
    """Counter of requests by result. Without a limit there is no metric, and nothing is counted."""

    def __init__(self, registry: CollectorRegistry, slo: Slo) -> None:
        self._slo = slo
        targets = {"ttft": slo.ttft_s, "tpot": slo.tpot_s}
        self._is_on = any(seconds is not None for seconds in targets.values())
        if not self._is_on:
            return
        self._requests = Counter(
            "pdserve_slo_requests",
            "Accepted requests, by what became of their objective",
            ("result",),
            registry=registry,
        )
        for result in SloResult:
            self._requests.labels(result)
        limits = Gauge(
            "pdserve_slo_target_seconds", "The objective", ("target",), registry=registry
        )
        for target, seconds in targets.items():
            if seconds is not None:
                limits.labels(target).set(seconds)

    def note_completed(self, choices: Sequence[tuple[float, float | None]]) -> None:
        """Count a request by its slowest choices: TTFT and TPOT of each, in seconds."""
        if self._is_on:
            later = [tpot_s for _, tpot_s in choices if tpot_s is not None]
            slowest = max(ttft_s for ttft_s, _ in choices), max(later, default=None)
            self._requests.labels(self._slo.judge(*slowest)).inc()

    def note_left(self, waited_s: float) -> None:
        """Count a request whose client left without a token, if that was late already."""
        if self._is_on and self._slo.judge(waited_s, None) is SloResult.MISSED_TTFT:
            self._requests.labels(SloResult.MISSED_TTFT).inc()

    def note_failed(self) -> None:
        """Count a request that ended badly, or whose deadline passed."""
        if self._is_on:
            self._requests.labels(SloResult.FAILED).inc()
