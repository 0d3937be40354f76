"""The queue in which prompts wait in the router, so that workers' queues stay short.

1. `push` puts a prompt into its tenant's order. Like 3 and 4, it calls `grant_turns`.
2. `grant_turns` grants turns to prompts for which the workers have room, beside what is granted and
   not yet sent. A prompt that workers would run before those sent to them finds more room. While no
   prompt is active, one turn is granted in any case. Room changes when workers come, go or stall,
   so a timer asks for it again while prompts wait.
3. `note_sent` says that a prompt counts at its worker from now on.
4. `finish` says that a prompt has run, or never will.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router.admission.fair_queue import FairQueue
from router.routing.prompt_order import Entrant, PromptTotals, Rank

_LOOK_AGAIN_S = 0.1


@dataclass(eq=False, slots=True)
class Turn:
    """A prompt's place: queued until `granted` is done, then active until `PromptQueue.finish`."""

    tenant: str
    num_tokens: int
    rank: Rank  # among the tenant's prompts
    entrant: Entrant  # beside all prompts at a worker
    granted: asyncio.Future[None]
    is_active: bool = False
    is_sent: bool = False


class PromptQueue:
    """Grants turns in the order of a FairQueue. Call all methods on the router's event loop."""

    def __init__(self, fair_queue: FairQueue[Turn], room_tokens: Callable[[Entrant], int]) -> None:
        """Take `room_tokens`: tokens in such prompts that the workers want besides those sent."""
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

    def ahead(self, tenant: str, rank: Rank) -> PromptTotals:
        """Return about what gets its turn before a new prompt of this tenant and rank."""
        return self._fair_queue.ahead(tenant, rank)

    def push(self, tenant: str, num_tokens: int, rank: Rank, entrant: Entrant) -> Turn:
        """Add a prompt of at least one token; `finish` must follow.

        `Turn.granted` is done when its turn comes.
        """
        granted = asyncio.get_running_loop().create_future()
        turn = Turn(tenant, num_tokens, rank, entrant, granted)
        self._fair_queue.push(tenant, turn, num_tokens, rank)
        self.grant_turns()
        return turn

    def grant_turns(self) -> None:
        """Grant the turns for which there is room now."""
        while self._fair_queue.num_tokens:
            popped = self._fair_queue.pop(self._has_room if self._num_active else _always)
            if popped is None:
                break
            turn, num_tokens = popped
            turn.is_active = True
            self._num_active += 1
            self._num_unsent_tokens += num_tokens
            if not turn.granted.done():
                turn.granted.set_result(None)
        if self._fair_queue.num_tokens and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look_again)

    def note_sent(self, turn: Turn) -> None:
        """Count a granted prompt at its worker, in the worker's load. Safe to repeat."""
        if not turn.is_sent:
            turn.is_sent = True
            self._num_unsent_tokens -= turn.num_tokens
            self.grant_turns()  # those that overtake it have room again

    def finish(self, turn: Turn) -> None:
        """End a turn whose prompt has run, or never will, and grant the next ones. Safe to repeat."""
        if turn.is_active:
            turn.is_active = False
            self._num_active -= 1
            self.note_sent(turn)
            self.grant_turns()
        else:
            self._fair_queue.remove(turn.tenant, turn, turn.num_tokens, turn.rank)

    def _has_room(self, turn: Turn) -> bool:
        return self._num_unsent_tokens < self._room_tokens(turn.entrant)

    def _look_again(self) -> None:
        self._timer = None
        self.grant_turns()


def _always(_turn: Turn) -> bool:
    return True
