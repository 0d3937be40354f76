"""Real traces of requests, scaled to a small model on a few cores.

Prompts are divided by the least power of two for which 99 % of them fit into 2,048 tokens. Answers
are divided by the same number, but at most by 16, so that some twenty tokens remain to measure
TPOT. Longer requests are cut. The traces are others' data and no part of the repository: without
their folder, `benchmarks.synthetic_trace` makes lists with the same summary statistics.
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
_MOONCAKE_TICK_S = 3.0  # that trace gives arrivals only in steps of 3 s


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival, and the divisors of their lengths."""

    name: str
    requests: list[TracedRequest]
    prompt_divisor: int
    output_divisor: int
    block_tokens: int  # of each block id, before the division

    def shapes(self, count: int, seed: int) -> list[Shape]:
        """Return `count` consecutive requests from a first one that `seed` chooses."""
        first = random.Random(seed).randrange(len(self.requests))
        return [self._shape(first + number) for number in range(count)]

    def _shape(self, place: int) -> Shape:
        rounds, index = divmod(place, len(self.requests))  # the trace repeats after its end
        request = self.requests[index]
        arrival_s = request.arrival_s + rounds * self.requests[-1].arrival_s
        output_tokens = max(1, round(request.output_tokens / self.output_divisor))
        wanted = max(1, round(request.input_tokens / self.prompt_divisor))
        left, segments = min(wanted, MAX_TOKENS - output_tokens), list[tuple[str, int]]()
        size = self.block_tokens // self.prompt_divisor
        for block in request.block_ids:
            segments.append((str(block), min(size, left)))
            left -= segments[-1][1]
        segments.append((f"own {place}", left))  # the whole prompt, if the trace has no blocks
        return Shape(arrival_s, tuple(s for s in segments if s[1]), output_tokens)


@dataclass(frozen=True, slots=True)
class _Source:
    """A known trace: its file, its reader, and its statistics."""

    name: str
    file: str
    read: Callable[[Path], list[TracedRequest]]
    prompt_divisor: int
    output_divisor: int
    summary: Summary


def load_traces(folder: Path | None) -> tuple[list[Trace], str]:
    """Return all traces, and a line that describes them.

    Raises FileNotFoundError for a folder without them.
    """
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
    """Read the trace; spread each tick's requests over it at random (seeded), not at its start."""
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
