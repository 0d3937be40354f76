"""Use of the workers by live requests: a worker is drained when no request needs it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from common.messages import WorkFailure
from router.routing.prediction import Route

# called with the number of a choice whose prefill worker is lost before the choice has a token
OnLoss = Callable[[int, WorkFailure], None]


class WorkerUse:
    """Counts the live requests of this router by the workers that they need."""

    def __init__(self) -> None:
        self._num_requests: Counter[str] = Counter()
        self._by_prefill: defaultdict[str, set[HeldWorkers]] = defaultdict(set)

    def hold(self, route: Route, choices: Iterable[int], on_loss: OnLoss) -> "HeldWorkers":
        """Hold the workers of a request's choices; `HeldWorkers.release` must follow for each."""
        held = HeldWorkers(self, route, choices, on_loss)
        self._num_requests.update(held.needed)
        if route.prefill:
            self._by_prefill[route.prefill].add(held)
        return held

    def num_requests(self, worker: str) -> int:
        """Return the number of requests that need the worker."""
        return self._num_requests[worker]

    def lose_prefill(self, worker: str, failure: WorkFailure) -> None:
        """Tell the choices that wait for token 1 from this worker that it does not come.

        Those on probation are blamed for it, if there are any.
        """
        failure = replace(failure, message="the prefill worker is gone", is_of_prefill=True)
        waiting = [*self._by_prefill[worker]]
        is_blamed = any(held.is_on_probation for held in waiting)
        for held in waiting:
            is_elsewhere = is_blamed and not held.is_on_probation
            held.lose(replace(failure, is_blamed_elsewhere=is_elsewhere))

    def give_back(self, held: "HeldWorkers", workers: set[str]) -> None:
        """Count a request no more at these workers, which it needed."""
        self._num_requests.subtract(workers)
        for worker in workers & {held.prefill}:
            self._by_prefill[worker].discard(held)


class HeldWorkers:
    """Workers of a request's choices: decode to the last one's end, prefill until each has token 1."""

    def __init__(
        self, use: WorkerUse, route: Route, choices: Iterable[int], on_loss: OnLoss
    ) -> None:
        self.prefill = route.prefill or ""
        self.needed = {route.decode, route.prefill or route.decode}
        self.is_on_probation = False  # they may be the cause of an earlier worker's death
        self._use = use
        self._on_loss = on_loss
        self._open = set(choices)
        self._waiting = set(self._open)  # choices without a token

    def lose(self, failure: WorkFailure) -> None:
        """Pass a loss of the prefill worker on to each choice without a token."""
        for choice in [*self._waiting]:
            self._on_loss(choice, failure)

    def note_first_token(self, choice: int) -> None:
        """Note a choice's first token; with the last choice, give back the prefill worker."""
        self._waiting.discard(choice)
        if not self._waiting and self.prefill:
            self._give_back({self.prefill})

    def release(self, choice: int) -> None:
        """Note a choice's end here; with the last choice, give back all. Safe to repeat."""
        self._open.discard(choice)
        self.note_first_token(choice)
        if not self._open:
            self._give_back({*self.needed})

    def _give_back(self, workers: set[str]) -> None:
        self._use.give_back(self, workers & self.needed)
        self.needed -= workers
