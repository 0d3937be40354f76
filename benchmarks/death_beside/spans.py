"""Gaps between messages in the spans of a round."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.report import percentile

SPANS = ("before", "moving", "starting", "during", "control", "after", "calm")


@dataclass(frozen=True, slots=True)
class Times:
    """Moments of one round, monotonic seconds."""

    begin_s: float
    kill_s: float
    moved_s: float  # the last stream had gone on
    back_s: float  # the worker served again
    after_s: float  # nothing disturbs the streams any more
    control_s: float  # as many new requests were sent as had moved


@dataclass(frozen=True, slots=True)
class Round:
    """Gaps of one round, in ms, by span."""

    recovery_s: float
    num_streams: int  # that were undisturbed
    moved_s: float  # from the kill until the last stream had gone on
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]

    def ratio(self, span: str, other: str) -> float:
        """Return the p99 of a span over that of another one."""
        return self.p99_ms[span] / self.p99_ms[other]


def make_round(beside: Sequence[Asking], times: Times) -> Round:
    """Return the gaps of these streams. Raises RuntimeError if a span has none."""
    if not times.kill_s < times.moved_s < times.back_s:
        raise RuntimeError("no stream moved before the worker was back")
    gaps = {name: gaps_ms(beside, *span) for name, span in _spans(times).items()}
    gaps["during"] = gaps["moving"] + gaps["starting"]
    gaps["calm"] = gaps["control"] + gaps["after"]
    if empty := [name for name in SPANS if not gaps[name]]:
        raise RuntimeError(f"no gap ended in these spans: {', '.join(empty)}")
    return Round(
        recovery_s=times.back_s - times.kill_s,
        num_streams=len(beside),
        moved_s=times.moved_s - times.kill_s,
        p50_ms={name: statistics.median(values) for name, values in gaps.items()},
        p99_ms={name: percentile(values, 0.99) for name, values in gaps.items()},
    )


def _spans(times: Times) -> dict[str, tuple[float, float]]:
    """Return begin and end of each; those without a death are as long as their counterparts.

    The p99 of a few seconds is almost the longest gap, which grows with the number of gaps.
    """
    moving_s, starting_s = times.moved_s - times.kill_s, times.back_s - times.moved_s
    return {
        "before": (times.begin_s, times.kill_s),
        "moving": (times.kill_s, times.moved_s),
        "starting": (times.moved_s, times.back_s),
        "control": (times.control_s, times.control_s + moving_s),
        "after": (times.after_s, times.after_s + starting_s),
    }


def gone_on_s(asking: Asking, kill_s: float, back_s: float) -> float:
    """Return the time of the first message from another worker.

    The longest gap since the kill ends there, of those that began before the killed worker was back.
    """
    gaps = pairwise([kill_s, *(time_s for time_s in asking.times_s if time_s > kill_s)])
    return max((gap for gap in gaps if gap[0] < back_s), key=lambda gap: gap[1] - gap[0])[1]


def gaps_ms(askings: Sequence[Asking], begin_s: float, end_s: float) -> list[float]:
    """Return the gaps between messages that ended in a span, in ms."""
    return [
        1e3 * (later_s - earlier_s)
        for asking in askings
        for earlier_s, later_s in pairwise(asking.times_s)
        if begin_s <= later_s < end_s
    ]
