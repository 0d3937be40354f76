"""Goodput after DistServe (arXiv 2401.09670): the highest rate with an attainment of 90 %.

Attainment is the share of requests that meet both SLOs.

1. Rates are rungs of one ladder, four to an octave, so that all systems get the same requests.
2. From a first guess the search steps up while a rung passes, or down while it fails; steps grow.
3. Then it bisects between the highest passing and the lowest failing rung, down to
   neighbours.
4. Goodput is the rate at which the line between those two crosses 90 %.
"""

import math
from dataclasses import dataclass

from benchmarks.slo_attainment import Attainment

TARGET = 0.9
LOWEST, HIGHEST = -12, 24  # 0.125 and 64 requests/s
Probes = dict[int, Attainment]  # by rung


def rate_of(rung: int) -> float:
    """Return the rung's rate in requests per second."""
    return float(2 ** (rung / 4))


@dataclass(frozen=True, slots=True)
class Search:
    """Result of one system in one case and round."""

    case: str
    system: str
    round_number: int
    goodput_per_s: float
    probes: tuple[Attainment, ...]  # in order of the rate


def nearest_rung(rate_per_s: float) -> int:
    """Return the rung nearest to a rate above 0."""
    return min(max(round(4 * math.log2(rate_per_s)), LOWEST), HIGHEST)


def next_rung(probes: Probes, first: int) -> int | None:
    """Return the next rung to measure; None if the crossing is found or off the ladder."""
    passing, failing = _bracket(probes)
    if passing is None and failing is None:
        return first
    stride = len(probes)
    if passing is None:
        assert failing is not None
        return None if failing == LOWEST else max(failing - stride, LOWEST)
    if failing is None:
        return None if passing == HIGHEST else min(passing + stride, HIGHEST)
    return (passing + failing) // 2 if failing - passing > 1 else None


def goodput(probes: Probes) -> float:
    """Return requests/s; 0 if the lowest rung fails, the highest rung's rate if that passes."""
    passing, failing = _bracket(probes)
    if passing is None:
        return 0.0
    if failing is None:
        return rate_of(passing)
    above, below = probes[passing].share - TARGET, TARGET - probes[failing].share
    low, high = rate_of(passing), rate_of(failing)
    return low + (high - low) * above / (above + below)


def _bracket(probes: Probes) -> tuple[int | None, int | None]:
    """Return the highest passing and the lowest failing rung, None if there is none.

    The search leaves no failing rung below the highest passing one.
    """
    passing = [rung for rung, probe in probes.items() if probe.share >= TARGET]
    failing = [rung for rung, probe in probes.items() if probe.share < TARGET]
    return max(passing, default=None), min(failing, default=None)
