"""Prompts that wait in the router, so that workers' queues stay short and the order stays ours.

1. `queue` puts a prompt behind its tenant's others and, like 3, calls `open`.
2. `open` grants turns: while workers have room for more than was granted and has not set out yet, or while
   nothing is on its way. Room comes and goes with workers and their stalls: while prompts wait, it is asked
   for again every little while.
3. `set_out` says that a prompt counts at its worker from now on.
4. `done` says that a prompt has run, or never will, wherever it stands; the next ones get their turn.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router.admission.fair_queue import FairQueue

_LOOK_AGAIN_S = 0.1


@dataclass(eq=False, slots=True)
class Turn:
    """One prompt's place: in the queue until `granted` is done, then on its way until `Gate.done`."""

    tenant: str
    num_tokens: int
    granted: asyncio.Future[None]
    is_on_its_way: bool = False
    has_set_out: bool = False


class Gate:
    """Grants turns in the FairQueue's order. On the router's event loop."""

    def __init__(self, queue: FairQueue[Turn], room_tokens: Callable[[], int]) -> None:
        """`room_tokens`: how much more the workers want than has set out, now."""
        self._queue = queue
        self._room_tokens = room_tokens
        self._num_on_the_way = 0
        self._num_leaving_tokens = 0  # granted, and not yet set out
        self._timer: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        """Prompts in the queue."""
        return len(self._queue)

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
        """Grant what turns there are."""
        if not self._queue.num_tokens:
            return
        room = self._room_tokens()
        while not self._num_on_the_way or self._num_leaving_tokens < room:
            popped = self._queue.pop()
            if popped is None:
                return
            turn, num_tokens = popped
            turn.is_on_its_way = True
            self._num_on_the_way += 1
            self._num_leaving_tokens += num_tokens
            if not turn.granted.done():
                turn.granted.set_result(None)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look_again)

    def set_out(self, turn: Turn) -> None:
        """A prompt whose turn came is at its worker, whose room is less by it. Safe to repeat."""
        if not turn.has_set_out:
            turn.has_set_out = True
            self._num_leaving_tokens -= turn.num_tokens

    def done(self, turn: Turn) -> None:
        """The prompt has run, or never will. Safe to repeat."""
        if turn.is_on_its_way:
            self.set_out(turn)
            turn.is_on_its_way = False
            self._num_on_the_way -= 1
            self.open()
        else:
            self._queue.remove(turn.tenant, turn)

    def _look_again(self) -> None:
        self._timer = None
        self.open()
