"""The queue in which prompts wait in the router, so that workers' queues stay short.

1. `push` puts a prompt behind its tenant's others. Like 4, it calls `grant_turns`.
2. `grant_turns` grants turns while the workers have room for more tokens than are granted and not
   yet sent. While no prompt is active, one turn is granted in any case. Room changes when workers
   come, go or stall, so a timer asks for it again while prompts wait.
3. `note_sent` says that a prompt counts at its worker from now on.
4. `finish` says that a prompt has run, or never will. The next prompts get their turn.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router.admission.fair_queue import FairQueue

_LOOK_AGAIN_S = 0.1


@dataclass(eq=False, slots=True)
class Turn:
    """A prompt's place: queued until `granted` is done, then active until `PromptQueue.finish`."""

    tenant: str
    num_tokens: int
    granted: asyncio.Future[None]
    is_active: bool = False
    is_sent: bool = False


class PromptQueue:
    """Grants turns in the order of a FairQueue. Call all methods on the router's event loop."""

    def __init__(self, fair_queue: FairQueue[Turn], room_tokens: Callable[[], int]) -> None:
        """Take `room_tokens`: the prompt tokens that the workers want besides those sent."""
        self._fair_queue = fair_queue
        self._room_tokens = room_tokens
        self._num_active = 0
        self._num_unsent_tokens = 0  # granted, and not yet sent
        self._timer: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        """Number of prompts in the queue."""
        return len(self._fair_queue)

    @property
    def num_waiting_tokens(self) -> int:
        """Number of prompt tokens in the queue."""
        return self._fair_queue.num_tokens

    def tokens_before(self, tenant: str) -> int:
        """Return about how many prompt tokens get their turn before a new prompt of this tenant."""
        return self._fair_queue.tokens_before(tenant)

    def push(self, tenant: str, num_tokens: int, priority: int) -> Turn:
        """Add a prompt of at least one token; `finish` must follow.

        `Turn.granted` is done when its turn comes.
        """
        turn = Turn(tenant, num_tokens, asyncio.get_running_loop().create_future())
        self._fair_queue.push(tenant, turn, num_tokens, priority)
        self.grant_turns()
        return turn

    def grant_turns(self) -> None:
        """Grant the turns for which there is room now."""
        if not self._fair_queue.num_tokens:
            return
        room = self._room_tokens()
        while not self._num_active or self._num_unsent_tokens < room:
            popped = self._fair_queue.pop()
            if popped is None:
                return
            turn, num_tokens = popped
            turn.is_active = True
            self._num_active += 1
            self._num_unsent_tokens += num_tokens
            if not turn.granted.done():
                turn.granted.set_result(None)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look_again)

    def note_sent(self, turn: Turn) -> None:
        """Count a granted prompt at its worker, in the worker's load. Safe to repeat."""
        if not turn.is_sent:
            turn.is_sent = True
            self._num_unsent_tokens -= turn.num_tokens

    def finish(self, turn: Turn) -> None:
        """End a turn whose prompt has run, or never will, and grant the next ones. Safe to repeat."""
        if turn.is_active:
            self.note_sent(turn)
            turn.is_active = False
            self._num_active -= 1
            self.grant_turns()
        else:
            self._fair_queue.remove(turn.tenant, turn)

    def _look_again(self) -> None:
        self._timer = None
        self.grant_turns()
