"""SLO attainment at an offered rate: the share of requests that meet both TTFT and TPOT."""

import asyncio
import time
from dataclasses import dataclass

from benchmarks.load_generator import OnDone, Record, Target, run_work
from benchmarks.workload import Work


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits that each request must meet, both of them."""

    ttft_s: float = 1.5
    tpot_s: float = 0.1

    def decided_s(self, work: Work) -> float:
        """Return the seconds after which an unfinished request has missed one of the limits."""
        return self.ttft_s + self.tpot_s * (work.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Attainment:
    """Outcome of all requests at one rate; the four counts add up to the number of requests."""

    rate_per_s: float
    num_met: int
    num_late: int  # TTFT missed
    num_slow: int  # TTFT met, TPOT missed
    num_cut: int  # still running after both limits were missed

    @property
    def share(self) -> float:
        """The share of all requests that met both limits."""
        return self.num_met / (self.num_met + self.num_late + self.num_slow + self.num_cut)


async def attainment(
    target: Target, works: list[Work], rate_per_s: float, slo: Slo, on_done: OnDone
) -> Attainment:
    """Send an open loop; end when every outcome is known, and cancel what still runs.

    A request that has already missed is not cancelled earlier: that would free room for the others.
    Raises what a request raises.
    """
    start_s = time.perf_counter()

    async def arrive(work: Work) -> Record:
        await asyncio.sleep(start_s + work.arrival_s - time.perf_counter())
        record = await run_work(target, work)
        on_done()
        return record

    decided_s = {
        asyncio.create_task(arrive(work)): start_s + work.arrival_s + slo.decided_s(work)
        for work in works
    }
    running, records = set(decided_s), list[Record]()
    try:
        while running:
            left_s = max(decided_s[task] for task in running) - time.perf_counter()
            if left_s <= 0:
                break
            ended, running = await asyncio.wait(
                running, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            records += [task.result() for task in ended]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return count(records, rate_per_s, slo, num_cut=len(running))


def count(records: list[Record], rate_per_s: float, slo: Slo, num_cut: int) -> Attainment:
    """Count the outcomes of the finished requests."""
    late = sum(record.ttft_s > slo.ttft_s for record in records)
    met = sum(record.ttft_s <= slo.ttft_s and record.tpot_s <= slo.tpot_s for record in records)
    return Attainment(rate_per_s, met, late, len(records) - late - met, num_cut)
