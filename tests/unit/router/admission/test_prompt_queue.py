import asyncio

import pytest

from common.profile import WorkerProfile
from router.admission.fair_queue import FairQueue
from router.admission.prompt_queue import PromptQueue, Turn
from router.journey.placement import room_tokens
from router.routing.prompt_order import Entrant, Rank
from tests.patience import WITHIN_S

WINDOW = 1000


class Waiting:
    """Prompts that want in, by name, and the order in which they got their turn.

    They set out for the only worker when they have it.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.window = window
        self.assigned: dict[str, int] = {}
        self.queue = PromptQueue(FairQueue[Turn](lambda _: 1.0), self._room)
        self.granted: list[str] = []
        self.turns: dict[str, Turn] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def _room(self, _entrant: Entrant) -> int:
        return max(self.window - sum(self.assigned.values()), 0)

    def done(self, name: str) -> None:
        self.assigned.pop(name, None)
        self.queue.finish(self.turns[name])

    async def add(self, name: str, num_tokens: int, tenant: str = "t", priority: int = 0) -> None:
        rank = Rank(priority)

        async def enter() -> None:
            turn = self.turns[name] = self.queue.push(
                tenant, num_tokens, rank, Entrant(priority, 0.0)
            )
            try:
                await turn.granted
            except asyncio.CancelledError:
                self.queue.finish(turn)
                raise
            self.granted.append(name)
            self.assigned[name] = num_tokens
            self.queue.note_sent(turn)

        self.tasks[name] = asyncio.create_task(enter())
        await settle()


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_prompts_go_while_less_than_a_window_is_on_its_way() -> None:
    waiting = Waiting()
    for name in "abcd":
        await waiting.add(name, 400)
    # 800 is still less than 1000, so that c goes too
    assert waiting.granted == ["a", "b", "c"]
    assert waiting.queue.num_waiting_tokens == 400
    waiting.done("a")
    await settle()
    assert waiting.granted == ["a", "b", "c", "d"]


async def test_one_always_goes_when_nothing_is_on_its_way() -> None:
    waiting = Waiting(window=0)
    await waiting.add("a", 5000)
    await waiting.add("b", 1)
    assert waiting.granted == ["a"]
    waiting.done("a")
    waiting.done("a")
    await settle()
    assert waiting.granted == ["a", "b"]


async def test_a_tenant_with_one_prompt_overtakes_another_with_many() -> None:
    waiting = Waiting()
    for number in range(6):
        await waiting.add(f"flood {number}", 600, tenant="flood")
    await waiting.add("one", 600, tenant="one")
    for name in waiting.granted[:2]:
        waiting.done(name)
    await settle()
    assert "one" in waiting.granted[:4]


async def test_the_urgent_goes_first_within_a_tenant() -> None:
    waiting = Waiting()
    for name, priority in (("first", 0), ("late", 1), ("urgent", -1)):
        await waiting.add(name, 1000, priority=priority)
    for name in ("first", "urgent", "late"):
        assert waiting.granted[-1] == name
        waiting.done(name)
        await settle()


@pytest.mark.parametrize("is_granted", [False, True])
async def test_who_gives_up_holds_nobody_up(is_granted: bool) -> None:
    """A prompt may leave in the moment in which its turn came."""
    waiting = Waiting()
    for name in ("a", "b", "c"):
        await waiting.add(name, 1000)
    if is_granted:
        waiting.done("a")
    waiting.tasks["b"].cancel()
    await settle()
    if not is_granted:
        assert waiting.queue.num_waiting_tokens == 1000
        waiting.done("a")
        await settle()
    assert waiting.granted == ["a", "c"]
    waiting.done("c")
    queue = waiting.queue
    assert (queue.num_waiting_tokens, queue._num_active, queue._num_unsent_tokens) == (0, 0, 0)


async def test_what_has_its_turn_counts_before_it_has_set_out() -> None:
    """All prompts ask before the first one is sent."""
    queue = PromptQueue(FairQueue[Turn](lambda _: 1.0), lambda _: WINDOW)
    turns = [queue.push("t", 400, Rank(0), Entrant(0, 0.0)) for _ in range(5)]
    assert [turn.granted.done() for turn in turns] == [True, True, True, False, False]
    queue.note_sent(turns[0])
    queue.note_sent(turns[0])
    queue.grant_turns()
    assert [turn.granted.done() for turn in turns] == [True, True, True, True, False]


async def test_a_prompt_that_workers_would_run_first_has_room_when_the_one_before_is_sent() -> None:
    """All room is taken for prompts of more than a second."""
    queue = PromptQueue(FairQueue[Turn](lambda _: 1.0), lambda e: WINDOW if e.run_s < 1 else 0)
    first = queue.push("t", 5000, Rank(0, 9.0), Entrant(0, 9.0))
    long = queue.push("t", 5000, Rank(0, 10.0), Entrant(0, 9.0))
    short = queue.push("t", 30, Rank(0, 2.0), Entrant(0, 0.1))
    assert [turn.granted.done() for turn in (first, long, short)] == [True, False, False]
    queue.note_sent(first)
    assert [turn.granted.done() for turn in (first, long, short)] == [True, False, True]
    assert queue.ahead("t", Rank(0, 11.0)) == (1, 5000)
    queue.finish(long)
    queue.finish(long)
    assert queue.ahead("t", Rank(0, 11.0)) == (0, 0)
    for turn in (first, short):
        queue.finish(turn)
    assert (queue.num_waiting, queue._num_active, queue._num_unsent_tokens) == (0, 0, 0)


async def test_room_that_comes_by_itself_is_found() -> None:
    """The queue finds the room of a worker that came back, or joined, without a call."""
    waiting = Waiting()
    for name in "ab":
        await waiting.add(name, 1000)
    assert waiting.granted == ["a"]
    waiting.window = 2000
    async with asyncio.timeout(WITHIN_S):
        await waiting.tasks["b"]


def test_a_long_prompt_takes_its_own_worker_s_room_and_no_other_s() -> None:
    profile = WorkerProfile(max_batch_tokens=100)
    workers = dict.fromkeys(("a", "b", "c"), profile)
    assigned = {"a": 100_000, "b": 150, "c": 0, "gone": 300}
    assert room_tokens(workers, lambda name: assigned[name]) == 0 + 250 + 400
