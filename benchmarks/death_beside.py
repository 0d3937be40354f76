"""Gaps between the tokens of undisturbed requests while another decode worker dies and comes back.

Usage: python -m benchmarks.death_beside. One deployment has 1 prefill and 2 decode workers. Streams run
on both decode workers; in each round one of them is killed. The streams of the other one are counted
in these spans:

1. `before` the kill;
2. `moving`: from the kill until each of its streams has gone on here. Their prompts and their output so far
   are computed anew;
3. `starting`: from there until the killed worker serves again. A process starts and loads the model;
4. `after`: as long as `before`, with the streams that have moved here, undisturbed.

`during` is the second and the third. So `starting` over `after` is the disturbance by the restart, and
`during` over `after` that by the death, both without the load that the moved streams add later.
"""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.fleet import DECODE, Fleet
from benchmarks.chaos.questions import Question
from benchmarks.chaos.report import percentile
from benchmarks.environment import write_result
from benchmarks.pdserve_server import deployment
from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2

_SPANS = ("before", "moving", "starting", "during", "after")
_MAX_TOKENS = 8000  # no stream ends in its round
_BACK_WITHIN_S, _BEGUN_WITHIN_S, _TIMEOUT_S = 300.0, 60.0, 3600.0
_WORDS = "The river carried a lantern past the quiet winter market, and nobody could say why. "


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


def main(
    model: str = "smollm2-135m", rounds: int = 3, streams: int = 8, span_s: float = 10.0
) -> None:
    """Measure, print a table, write benchmarks/results/death_beside.json."""
    found = asyncio.run(_measure(model, rounds, streams, span_s))
    medians = {name: _medians(found, name) for name in _SPANS}
    ratios = {
        f"p99 {span} over {other}": statistics.median(one.ratio(span, other) for one in found)
        for span, other in (("during", "after"), ("starting", "after"), ("during", "before"))
    }
    figures = {
        "model": model,
        "streams": streams,
        "span_s": span_s,
        **ratios,
        "medians": medians,
        "rounds": [asdict(one) for one in found],
    }
    path = write_result("death_beside", figures)
    title = "; ".join(f"{name}: {value:.2f}" for name, value in ratios.items())
    table = Table("span", "p50, ms", "p99, ms", title=title)
    for name, values in medians.items():
        table.add_row(name, f"{values['p50_ms']:.1f}", f"{values['p99_ms']:.1f}")
    Console().print(table, f"written to {path}")


def _medians(found: Sequence[Round], span: str) -> dict[str, float]:
    return {
        "p50_ms": statistics.median(one.p50_ms[span] for one in found),
        "p99_ms": statistics.median(one.p99_ms[span] for one in found),
    }


async def _measure(model: str, rounds: int, streams: int, span_s: float) -> list[Round]:
    flags = ("--prefill", "1", "--decode", "2", "--policy", "least_loaded")
    settings = {
        "PDSERVE_ROUTER__MAX_WAIT_S": "0",
        "PDSERVE_ROUTER__MAX_OUTAGE_S": "600",
        "PDSERVE_START_TIMEOUT_S": "300",
    }
    async with (
        deployment(model, *flags, **settings) as served,
        AsyncClient(served.address) as client,
    ):
        fleet = Fleet(client, served.address, served.router_pid)
        return [await _round(fleet, number, streams, span_s) for number in range(rounds)]


async def _round(fleet: Fleet, number: int, streams: int, span_s: float) -> Round:
    """Kill one of the two decode workers under streams, and look at those of the other one."""
    askings = [_asking(f"round-{number}-{place}") for place in range(streams)]
    fleet.running = {asking.request_id: asking for asking in askings}
    tasks = [asyncio.create_task(asking.run(fleet.client, _TIMEOUT_S)) for asking in askings]
    try:
        await _until_begun(askings)
        victim, other = sorted(await fleet.workers(DECODE), key=lambda worker: worker.name)
        beside = await fleet.askings_at(other.name)
        if not beside or len(beside) == streams:
            raise RuntimeError(f"{other.name} has {len(beside)} of the {streams} streams")
        begin_s = time.monotonic()
        await asyncio.sleep(span_s)
        kill_s = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        await fleet.until_whole({victim.name: victim.incarnation}, _BACK_WITHIN_S)
        back_s = time.monotonic()
        await asyncio.sleep(span_s)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if errors := [asking.error for asking in askings if asking.error]:
        raise RuntimeError(errors[0])
    await fleet.until_at_rest(_BEGUN_WITHIN_S)
    moved_s = max(_gone_on_s(asking, kill_s) for asking in askings if asking not in beside)
    return make_round(beside, (begin_s, kill_s, moved_s, back_s, back_s + span_s))


def make_round(
    beside: Sequence[Asking], times_s: tuple[float, float, float, float, float]
) -> Round:
    """Return the gaps of these streams: the times are the ends of the spans, and their first begin."""
    _, kill_s, moved_s, back_s, _ = times_s
    if not kill_s < moved_s < back_s:
        raise RuntimeError("no stream moved before the worker was back")
    spans = dict(zip(("before", "moving", "starting", "after"), pairwise(times_s), strict=True))
    gaps = {name: gaps_ms(beside, *span) for name, span in spans.items()}
    gaps["during"] = gaps["moving"] + gaps["starting"]
    return Round(
        recovery_s=back_s - kill_s,
        num_streams=len(beside),
        moved_s=moved_s - kill_s,
        p50_ms={name: statistics.median(values) for name, values in gaps.items()},
        p99_ms={name: percentile(values, 0.99) for name, values in gaps.items()},
    )


def _gone_on_s(asking: Asking, kill_s: float) -> float:
    """Return the time of the first message from another worker: the longest gap around a kill ends there."""
    later = [time_s for time_s in asking.times_s if time_s > kill_s]
    return max(pairwise([kill_s, *later]), key=lambda pair: pair[1] - pair[0])[1]


def gaps_ms(askings: Sequence[Asking], begin_s: float, end_s: float) -> list[float]:
    """Return the gaps between messages that ended in a span, in ms."""
    return [
        1e3 * (later_s - earlier_s)
        for asking in askings
        for earlier_s, later_s in pairwise(asking.times_s)
        if begin_s <= later_s < end_s
    ]


def _asking(name: str) -> Asking:
    sampling = inference_pb2.SamplingParams(
        max_tokens=_MAX_TOKENS, ignore_eos=True, temperature=0.0
    )
    return Asking(Question("greedy", f"{name}: {_WORDS}", sampling), name)


async def _until_begun(askings: Sequence[Asking]) -> None:
    async with asyncio.timeout(_BEGUN_WITHIN_S):
        while not all(asking.times_s or asking.error for asking in askings):
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    typer.run(main)
