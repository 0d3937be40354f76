"""Plans of simulations: requests, and the faults that befall their workers."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """A client's request, and when it leaves, if it does."""

    at_s: float
    num_prompt_tokens: int
    max_tokens: int
    num_choices: int = 1
    cancel_after_s: float | None = None


@dataclass(frozen=True)
class Fault:
    """One fault of one worker, by its number."""

    at_s: float
    kind: str  # kill, cut, silence, hang
    worker: int
    for_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Everything that happens in one simulation."""

    seed: int
    num_prefill: int
    num_decode: int
    requests: tuple[Request, ...]
    faults: tuple[Fault, ...]
    policy: str = "least_loaded"


@dataclass
class Result:
    """Outcome of one simulation."""

    num_identical: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    migrations: float = 0.0
