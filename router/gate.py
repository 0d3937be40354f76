"""Prompts that wait in the router, so that workers' queues stay short and the order stays ours.

1. `queue` puts a prompt behind its tenant's others and, like 3, calls `open`.
2. `open` grants turns: while less than a window of prompt tokens is on its way, or nothing is.
3. `done` says that a prompt has run, or never will, wherever it stands; the next ones get their turn.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router.fair_queue import FairQueue


@dataclass(eq=False, slots=True)
class Turn:
    """One prompt's place: in the queue until `granted` is done, then on its way until `Gate.done`."""

    tenant: str
    num_tokens: int
    granted: asyncio.Future[None]
    is_on_its_way: bool = False


class Gate:
    """Grants turns in the FairQueue's order. On the router's event loop."""

    def __init__(self, queue: FairQueue[Turn], window_tokens: Callable[[], int]) -> None:
        """`window_tokens` is how much the workers want on its way, now."""
        self._queue = queue
        self._window_tokens = window_tokens
        self._num_on_the_way = 0

    @property
    def num_waiting_tokens(self) -> int:
        """Prompt tokens in the queue."""
        return self._queue.num_tokens

    def tokens_before(self, tenant: str) -> int:
        """About how many prompt tokens get their turn before a new prompt of this tenant."""
        return self._queue.tokens_before(tenant)

    def queue(self, tenant: str, num_tokens: int, priority: int) -> Turn:
        """A prompt of at least one token; `done` must follow. Its turn has come when `granted` is done."""
        turn = Turn(tenant, num_tokens, asyncio.get_running_loop().create_future())
        self._queue.push(tenant, turn, num_tokens, priority)
        self.open()
        return turn

    def open(self) -> None:
        """Grant what turns there are; to be called too when workers have come or gone."""
        window = self._window_tokens()
        while not self._num_on_the_way or self._num_on_the_way < window:
            popped = self._queue.pop()
            if popped is None:
                return
            turn, num_tokens = popped
            turn.is_on_its_way = True
            self._num_on_the_way += num_tokens
            if not turn.granted.done():
                turn.granted.set_result(None)

    def done(self, turn: Turn) -> None:
        """The prompt has run, or never will. Safe to repeat."""
        if turn.is_on_its_way:
            turn.is_on_its_way = False
            self._num_on_the_way -= turn.num_tokens
            turn.num_tokens = 0
            self.open()
        else:
            self._queue.remove(turn.tenant, turn)
