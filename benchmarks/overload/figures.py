"""Figures of an overload, computed from the answers; no clocks, no sockets."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.overload.client import Answer
from benchmarks.slo_attainment import Attainment, Slo


@dataclass(frozen=True, slots=True)
class Offered:
    """Outcome of a load; shares are of all requests and add up to 1."""

    rate_per_s: float  # offered rate
    goodput_per_s: float  # requests that met both SLOs
    shares: dict[str, float]  # met, late (TTFT), slow (TPOT only), and the reason of each failure
    refused_p50_ms: float | None  # from sending to the refusal; None: no refusals
    refused_p99_ms: float | None
    refused_share: float
    ttft_p50_ms: float | None  # of requests with a token; None: there were none
    ttft_p99_ms: float | None


def summarise(answers: Sequence[Answer], seconds: float, slo: Slo) -> Offered:
    """Summarise the answers to all requests that arrived within `seconds`."""
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
    """Return the attainment for the capacity search; refused and ended requests count as cut."""
    outcomes = Counter(_outcome(answer, slo) for answer in answers)
    met, late, slow = outcomes["met"], outcomes["late"], outcomes["slow"]
    return Attainment(rate_per_s, met, late, slow, len(answers) - met - late - slow)


def arrived_after(answers: Sequence[Answer], lead_in_s: float) -> list[Answer]:
    """Keep answers to requests that arrived after the lead-in, when the server was loaded."""
    return [answer for answer in answers if answer.record.work.arrival_s >= lead_in_s]


def recovery_s(probes: Sequence[Answer], end_s: float, slo: Slo) -> float | None:
    """Return the seconds from an overload's end to the first token of the first good probe.

    `end_s` is on the clock of arrivals. A good probe meets both SLOs; None if there is none.
    """
    served = [
        probe.record.work.arrival_s + probe.record.ttft_s for probe in probes if probe.meets(slo)
    ]
    return min(served) - end_s if served else None


def fairness(tenants: Sequence[Offered]) -> float | None:
    """Return Jain's index of goodputs, each over the tenant's max-min fair part; None if all are 0.

    A tenant that asks for less than an equal part is owed only what it asks for.
    """
    goodputs = [tenant.goodput_per_s for tenant in tenants]
    fair = max_min([tenant.rate_per_s for tenant in tenants], sum(goodputs))
    return jain([goodput / part for goodput, part in zip(goodputs, fair, strict=True) if part])


def max_min(demands: Sequence[float], total: float) -> list[float]:
    """Return the max-min fair parts of `total`, which is at most the sum of the demands.

    No part exceeds its demand, and all parts below their demands are equal.
    """
    parts, left = [0.0] * len(demands), total
    by_demand = sorted(range(len(demands)), key=demands.__getitem__)
    for place, index in enumerate(by_demand):
        parts[index] = min(demands[index], left / (len(demands) - place))
        left -= parts[index]
    return parts


def jain(shares: Sequence[float]) -> float | None:
    """Return Jain's index (Jain, Chiu, Hawe 1984): 1 if all are equal, 1/n if one has all.

    None if nobody has anything.
    """
    return ratio(sum(shares) ** 2, len(shares) * sum(share**2 for share in shares))


def ratio(over: float, under: float) -> float | None:
    """Return the quotient, if both values exist."""
    return over / under if under else None


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of the values that exist."""
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
