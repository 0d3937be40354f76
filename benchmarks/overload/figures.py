"""The arithmetic of overload: what answers amount to. No clocks, no sockets."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.attainment import Attainment, Slo
from benchmarks.overload.client import Answer


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of a load. The shares are of all requests, and all of them together are 1."""

    rate_per_s: float  # offered
    goodput_per_s: float  # requests that met both SLOs
    shares: dict[
        str, float
    ]  # met, late (TTFT), slow (TPOT only), and the reason of each that failed
    refused_p50_ms: float | None  # from sending to the refusal; None: nobody was refused
    refused_p99_ms: float | None
    refused_share: float
    ttft_p50_ms: float | None  # of those with a token; None: there were none
    ttft_p99_ms: float | None


def summarise(answers: Sequence[Answer], seconds: float, slo: Slo) -> Offered:
    """Of the answers to all requests that arrived within so many seconds."""
    outcomes = Counter(_outcome(answer, slo) for answer in answers)
    shares = {name: number / len(answers) for name, number in sorted(outcomes.items())}
    refused_ms = [answer.seconds * 1e3 for answer in answers if answer.is_refused]
    ttft_ms = [answer.record.ttft_s * 1e3 for answer in answers if answer.record.token_times_s]
    return Offered(
        rate_per_s=len(answers) / seconds,
        goodput_per_s=outcomes["met"] / seconds,
        shares=shares,
        refused_p50_ms=_percentile(refused_ms, 50),
        refused_p99_ms=_percentile(refused_ms, 99),
        refused_share=len(refused_ms) / len(answers),
        ttft_p50_ms=_percentile(ttft_ms, 50),
        ttft_p99_ms=_percentile(ttft_ms, 99),
    )


def attained(answers: Sequence[Answer], rate_per_s: float, slo: Slo) -> Attainment:
    """The same for the search of the capacity; who was refused, or had to end, is cut."""
    outcomes = Counter(_outcome(answer, slo) for answer in answers)
    met, late, slow = outcomes["met"], outcomes["late"], outcomes["slow"]
    return Attainment(rate_per_s, met, late, slow, len(answers) - met - late - slow)


def arrived_after(answers: Sequence[Answer], lead_in_s: float) -> list[Answer]:
    """Without those to requests that met a server which was not loaded yet."""
    return [answer for answer in answers if answer.record.work.arrival_s >= lead_in_s]


def recovery_s(probes: Sequence[Answer], end_s: float, slo: Slo) -> float | None:
    """From the end of an overload, at `end_s` on the clock of arrivals, to the first token of the first probe
    that met both SLOs; None when none did."""
    served = [
        probe.record.work.arrival_s + probe.record.ttft_s for probe in probes if probe.meets(slo)
    ]
    return min(served) - end_s if served else None


def fairness(tenants: Sequence[Offered]) -> float | None:
    """Jain's index of goodputs, each over the tenant's max-min fair part of all; None when all are 0.

    A tenant that asks for less than an equal part is owed what it asks for, and no more.
    """
    goodputs = [tenant.goodput_per_s for tenant in tenants]
    fair = max_min([tenant.rate_per_s for tenant in tenants], sum(goodputs))
    return jain([goodput / part for goodput, part in zip(goodputs, fair, strict=True) if part])


def max_min(demands: Sequence[float], total: float) -> list[float]:
    """The max-min fair parts of `total`, which is at most what all demand together.

    Nobody gets more than it demands, and those who get less all get the same.
    """
    parts, left = [0.0] * len(demands), total
    by_demand = sorted(range(len(demands)), key=demands.__getitem__)
    for place, index in enumerate(by_demand):
        parts[index] = min(demands[index], left / (len(demands) - place))
        left -= parts[index]
    return parts


def jain(shares: Sequence[float]) -> float | None:
    """Jain's index of fairness (Jain, Chiu, Hawe 1984): 1 when all have the same, 1/n when one has all.

    None when nobody has anything.
    """
    return ratio(sum(shares) ** 2, len(shares) * sum(share**2 for share in shares))


def ratio(over: float, under: float) -> float | None:
    """The quotient, if there is one."""
    return over / under if under else None


def median(values: Sequence[float | None]) -> float | None:
    """Of those that are there."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _outcome(answer: Answer, slo: Slo) -> str:
    if answer.reason is not None:
        return answer.reason.value
    if answer.record.ttft_s > slo.ttft_s:
        return "late"
    return "met" if answer.meets(slo) else "slow"


def _percentile(values: Sequence[float], q: float) -> float | None:
    return float(np.percentile(values, q)) if values else None
