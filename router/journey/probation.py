"""Probation: choices that met a worker's death, and may be its cause.

Nobody knows which of a dead worker's choices was the cause. Were those that met all deaths so far
together again, the cause would end them all with POISON. So they are told apart:

1. `Relocation` has a choice that met deaths placed where it is allowed, and it waits while it is so
   nowhere. One that another death would end is alone: no other one on probation is there. `begin`
   takes the workers of its route.
2. While choices on probation are at a worker, its death counts for them alone (`OpenWork.fail`,
   `WorkerUse.lose_prefill`).
3. The cause of a prefill worker's death may end the decode worker too, which then runs the prompt,
   when it has moved away. Such a death counts for nobody.
4. An attempt that gives `PROVEN_TOKENS` has run all that the choice had at the last death, and its
   probation is over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from router.routing.prediction import Route

# more than a worker can have under way, and sends only behind the step that kills it
PROVEN_TOKENS = 16


Allows = Callable[[str], bool]  # of a worker's name


def anywhere(name: str) -> bool:
    """Allow every worker."""
    return True


@dataclass(slots=True)
class Probation:
    """Knows the workers that have choices on probation."""

    max_deaths: int  # that a choice survives
    _workers: dict[str, int] = field(default_factory=dict)  # by name -> choices
    _alone: dict[str, int] = field(default_factory=dict)  # those with one that is to be alone

    def allows(self, num_deaths: int) -> Allows:
        """Return what tells where a choice that met so many deaths may run. It stays up to date."""
        if not num_deaths:
            return anywhere
        taken = self._workers if self._is_last_life(num_deaths) else self._alone
        return lambda name: name not in taken

    def begin(self, num_deaths: int, route: Route) -> "ProbationPlace | None":
        """Take a route's workers; `ProbationPlace.release` must follow. None for a choice without deaths."""
        if not num_deaths:
            return None
        is_last_life = self._is_last_life(num_deaths)
        taken = [self._workers, self._alone] if is_last_life else [self._workers]
        return ProbationPlace(taken, route)

    def _is_last_life(self, num_deaths: int) -> bool:
        return num_deaths >= self.max_deaths


class ProbationPlace:
    """Part of a choice on probation in its workers."""

    def __init__(self, taken: list[dict[str, int]], route: Route) -> None:
        self._taken = taken
        self._workers = {route.decode, route.prefill or route.decode}
        self._num_left = PROVEN_TOKENS
        for counts in taken:
            for worker in self._workers:
                counts[worker] = counts.get(worker, 0) + 1

    def has_proven(self, num_tokens: int) -> bool:
        """Count new tokens of the attempt; return True once they are enough."""
        self._num_left -= num_tokens
        return self._num_left <= 0

    def release(self) -> None:
        """Free the workers. Safe to repeat."""
        workers, self._workers = self._workers, set()
        for counts in self._taken:
            for worker in workers:
                counts[worker] -= 1
                if not counts[worker]:
                    del counts[worker]
