"""Comparison of the engine with `transformers`, in turns, on the same requests."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from benchmarks.gpu.engine_run import Run, run_engine
from benchmarks.gpu.model import free_memory
from benchmarks.gpu.peer import Peer
from benchmarks.gpu.scale import RequestList
from benchmarks.gpu.time_budget import Budget
from benchmarks.workload import Work
from common.engine.build import Engine

_USUAL_S = 20.0  # of one run of the engine, including its creation
OURS, THEIRS = "pdserve", "transformers"


@dataclass(slots=True)
class Comparison:
    """The runs of both systems by round, over a list of `works`."""

    works: list[Work]
    runs: dict[str, list[Run]] = field(default_factory=lambda: {OURS: [], THEIRS: []})
    peer_attention: str = ""
    peer_failure: str = ""

    def seconds(self, system: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(run.seconds for run in self.runs[system])

    def output_rate(self, system: str) -> float:
        """Return output tokens a second."""
        return sum(work.output_tokens for work in self.works) / self.seconds(system)

    def total_rate(self, system: str) -> float:
        """Return prompt and output tokens a second."""
        return sum(work.total_tokens for work in self.works) / self.seconds(system)

    def is_whole(self, system: str) -> bool:
        """Return True if every run ended; otherwise its rates are upper bounds."""
        return all(run.is_whole for run in self.runs[system])

    @property
    def ratio(self) -> float | None:
        """Our rate over theirs; a lower bound if theirs is an upper bound."""
        if not all(self.runs.values()):
            return None
        return self.seconds(THEIRS) / self.seconds(OURS)

    def to_json(self) -> dict[str, object]:
        """Return the values for the results file."""
        runs = {name: [asdict(run) for run in runs] for name, runs in self.runs.items()}
        rates = {name: self.output_rate(name) for name, found in self.runs.items() if found}
        return {
            "runs": runs,
            "output tokens/s": rates,
            "ratio": self.ratio,
            "transformers' attention": self.peer_attention,
            "transformers' failure": self.peer_failure,
        }


def compare(
    found: Comparison,
    requests: RequestList,
    model: torch.nn.Module,
    new_engine: Callable[[], Engine],
    budget: Budget,
) -> None:
    """Run both in turns; each has the memory to itself, except for the weights."""
    warm_up = requests.warm_up()
    for number in range(1, requests.rounds + 1):
        if budget.allows(f"requests, round {number}, {OURS}", _USUAL_S):
            found.runs[OURS].append(run_engine(new_engine(), warm_up, found.works))
        free_memory()
        # a run cut off early would say little: it gets at least twice the time that ours took
        needs_s = max((2 * run.seconds for run in found.runs[OURS]), default=_USUAL_S)
        part = f"requests, round {number}, {THEIRS}"
        if not found.peer_failure and budget.allows(part, needs_s):
            _run_peer(found, requests, model, budget)
        free_memory()


def _run_peer(
    found: Comparison, requests: RequestList, model: torch.nn.Module, budget: Budget
) -> None:
    peer = Peer(model, requests.peer_blocks)
    try:
        found.runs[THEIRS].append(peer.run(requests.warm_up(), found.works, budget))
        found.peer_attention = peer.attention
    except (RuntimeError, MemoryError, ValueError) as error:  # our results are valid without it
        found.peer_failure = next(iter(str(error).splitlines()), type(error).__name__)
