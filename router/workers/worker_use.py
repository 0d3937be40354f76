"""Use of the workers by live requests: a worker is drained when no request needs it."""

from collections import Counter
from collections.abc import Iterable

from router.routing.prediction import Route


class WorkerUse:
    """Counts the live requests of this router by the workers that they need."""

    def __init__(self) -> None:
        self._num_requests: Counter[str] = Counter()

    def hold(self, route: Route, choices: Iterable[int]) -> "HeldWorkers":
        """Hold the workers of a request's choices; `HeldWorkers.release` must follow for each."""
        return HeldWorkers(self._num_requests, route, choices)

    def num_requests(self, worker: str) -> int:
        """Return the number of requests that need the worker."""
        return self._num_requests[worker]


class HeldWorkers:
    """Workers of a request's choices: decode to the last one's end, prefill until each has token 1."""

    def __init__(self, num_requests: Counter[str], route: Route, choices: Iterable[int]) -> None:
        self._num_requests = num_requests
        self._needed = {route.decode, *((route.prefill,) if route.prefill else ())}
        self._prefill = route.prefill
        self._open = set(choices)
        self._waiting = set(self._open)  # choices without a token
        num_requests.update(self._needed)

    def note_first_token(self, choice: int) -> None:
        """Note a choice's first token; with the last choice, give back the prefill worker."""
        self._waiting.discard(choice)
        if not self._waiting and self._prefill is not None:
            self._give_back({self._prefill})

    def release(self, choice: int) -> None:
        """Note a choice's end here; with the last choice, give back all. Safe to repeat."""
        self._open.discard(choice)
        self.note_first_token(choice)
        if not self._open:
            self._give_back(self._needed)

    def _give_back(self, workers: set[str]) -> None:
        self._num_requests.subtract(workers & self._needed)
        self._needed -= workers
