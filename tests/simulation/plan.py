"""Plans of simulations: what happens, and what came of it. Plain data."""

from collections import Counter
from dataclasses import dataclass, field

SEEDS_APART = 100  # of one request and the next


@dataclass(frozen=True)
class Request:
    """A client's request, and when and how the client gives it up, if it does."""

    at_s: float
    num_prompt_tokens: int
    max_tokens: int
    num_choices: int = 1
    leaves_after_s: float | None = None
    leaves_by: str = "cancel"  # cancel (Cancel), departure (the stream is closed), deadline


@dataclass(frozen=True)
class Fault:
    """One fault of one worker, by its number."""

    at_s: float
    kind: str  # kill, cut, silence, hang, evict
    worker: int
    for_s: float = 0.0


@dataclass(frozen=True)
class Poison:
    """Request whose worker dies in every step that runs one of its positions from `position` on."""

    request: int  # its number
    position: int

    @property
    def seed(self) -> int:
        """Seed of the request, which no other one has."""
        return SEEDS_APART * self.request


@dataclass(frozen=True)
class Plan:
    """Everything that happens in one simulation."""

    seed: int
    num_prefill: int
    num_decode: int
    requests: tuple[Request, ...]
    faults: tuple[Fault, ...]
    policy: str = "least_loaded"
    is_supervised: bool = (
        False  # then processes start again at other addresses, and routers are told
    )
    max_worker_deaths: int | None = None  # None: as many as there are kills
    poison: Poison | None = None

    @property
    def num_kills(self) -> int:
        """Number of processes that die, at most."""
        return sum(fault.kind == "kill" for fault in self.faults)


@dataclass
class Result:
    """Outcome of one simulation."""

    num_identical: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    migrations: float = 0.0
    num_poisoned: int = 0  # processes that died of poison
