"""Real traces of requests, scaled to a small model on a few cores.

Prompts are divided by the least power of two by which 99 % of them fit into 2,048 tokens, answers by the
same, but at most by 16, so that they keep some twenty tokens to measure TPOT on; what still does not fit
is cut. The traces are data of others and no part of the repository: without their folder,
`benchmarks.synthetic_trace` makes lists with the same summary statistics.
"""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.synthetic_trace import Summary, TracedRequest, synthetic
from benchmarks.workload import Shape

MAX_TOKENS = 2048  # of prompt and answer together
_MOONCAKE_TICK_S = 3.0  # that trace tells arrivals to 3 s only


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests by arrival, and what their lengths are divided by."""

    name: str
    requests: list[TracedRequest]
    prompt_divisor: int
    output_divisor: int
    block_tokens: int  # of each block id, before the division

    def shapes(self, count: int, seed: int) -> list[Shape]:
        """`count` requests on end from a place that `seed` chooses; more of them begin alike."""
        first = random.Random(seed).randrange(len(self.requests))
        return [self._shape(first + number) for number in range(count)]

    def _shape(self, place: int) -> Shape:
        rounds, index = divmod(place, len(self.requests))  # after its end the trace begins again
        request = self.requests[index]
        arrival_s = request.arrival_s + rounds * self.requests[-1].arrival_s
        output_tokens = max(1, round(request.output_tokens / self.output_divisor))
        wanted = max(1, round(request.input_tokens / self.prompt_divisor))
        left, segments = min(wanted, MAX_TOKENS - output_tokens), list[tuple[str, int]]()
        size = self.block_tokens // self.prompt_divisor
        for block in request.block_ids:
            segments.append((str(block), min(size, left)))
            left -= segments[-1][1]
        segments.append((f"own {place}", left))  # all of it, where the trace tells no blocks
        return Shape(arrival_s, tuple(s for s in segments if s[1]), output_tokens)


@dataclass(frozen=True, slots=True)
class _Source:
    """A trace that we know: its file, how to read that, and what it is like."""

    name: str
    file: str
    read: Callable[[Path], list[TracedRequest]]
    prompt_divisor: int
    output_divisor: int
    summary: Summary


def load_traces(folder: Path | None) -> tuple[list[Trace], str]:
    """All traces, and one line on what they are. Raises FileNotFoundError for a folder without them."""
    traces = [
        Trace(
            source.name,
            source.read(folder / source.file) if folder else synthetic(source.summary),
            source.prompt_divisor,
            source.output_divisor,
            source.summary.block_tokens,
        )
        for source in _SOURCES
    ]
    scales = (
        f"{t.name}: prompts / {t.prompt_divisor}, answers / {t.output_divisor}" for t in traces
    )
    kind = (
        "real traces" if folder else "no --traces folder: synthetic requests with their statistics"
    )
    return traces, f"{kind} ({'; '.join(scales)}; clocks stretched)"


def _read_azure(file: Path) -> list[TracedRequest]:
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    times_s = [datetime.fromisoformat(row["TIMESTAMP"]).timestamp() for row in rows]
    return [
        TracedRequest(time_s - times_s[0], int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        for time_s, row in zip(times_s, rows, strict=True)
    ]


def _read_mooncake(file: Path) -> list[TracedRequest]:
    """A tick's requests are spread over it at random (seeded), or all would arrive at its border."""
    rng = random.Random(0)
    requests = [
        TracedRequest(
            row["timestamp"] / 1e3 + rng.uniform(0, _MOONCAKE_TICK_S),
            row["input_length"],
            row["output_length"],
            tuple(row["hash_ids"]),
        )
        for row in map(json.loads, file.read_text().splitlines())
    ]
    return sorted(requests, key=lambda request: request.arrival_s)


_SOURCES = (
    _Source(
        "Azure conversation",
        "AzureLLMInferenceTrace_conv.csv",
        _read_azure,
        prompt_divisor=4,
        output_divisor=4,
        summary=Summary(
            num_requests=19_366,
            rate_per_s=5.53,
            arrival_cv=1.09,
            inputs=(2, 207, 1020, 2735, 4142),
            outputs=(7, 54, 129, 424, 601),
        ),
    ),
    _Source(
        "Mooncake conversation",
        "mooncake_conversation_trace.jsonl",
        _read_mooncake,
        prompt_divisor=64,
        output_divisor=16,
        summary=Summary(
            num_requests=12_031,
            rate_per_s=3.40,
            arrival_cv=1.01,
            inputs=(891, 964, 6909, 27_367, 85_401),
            outputs=(1, 24, 350, 597, 1119),
            block_tokens=512,
            shared_blocks=0.366,
        ),
    ),
)
