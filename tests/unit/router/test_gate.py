import asyncio

import pytest

from router.fair_queue import FairQueue
from router.gate import Gate, Turn

WINDOW = 1000


def make(window: int = WINDOW) -> Gate:
    return Gate(FairQueue[Turn](lambda _: 1.0), lambda: window)


class Waiting:
    """Prompts that want in, by name, and the order in which they got their turn."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.granted: list[str] = []
        self.turns: dict[str, Turn] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def add(self, name: str, num_tokens: int, tenant: str = "t", priority: int = 0) -> None:
        async def enter() -> None:
            turn = self.turns[name] = self.gate.queue(tenant, num_tokens, priority)
            try:
                await turn.granted
            except asyncio.CancelledError:
                self.gate.done(turn)
                raise
            self.granted.append(name)

        self.tasks[name] = asyncio.create_task(enter())
        await settle()


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_prompts_go_while_less_than_a_window_is_on_its_way() -> None:
    waiting = Waiting(make())
    for name in "abcd":
        await waiting.add(name, 400)
    # 800 is still less than 1000, so that c goes too
    assert waiting.granted == ["a", "b", "c"]
    assert waiting.gate.num_waiting_tokens == 400
    waiting.gate.done(waiting.turns["a"])
    await settle()
    assert waiting.granted == ["a", "b", "c", "d"]


async def test_one_always_goes_when_nothing_is_on_its_way() -> None:
    waiting = Waiting(make(window=0))
    await waiting.add("a", 5000)
    await waiting.add("b", 1)
    assert waiting.granted == ["a"]
    waiting.gate.done(waiting.turns["a"])
    waiting.gate.done(waiting.turns["a"])
    await settle()
    assert waiting.granted == ["a", "b"]


async def test_a_tenant_with_one_prompt_overtakes_another_with_many() -> None:
    waiting = Waiting(make())
    for number in range(6):
        await waiting.add(f"flood {number}", 600, tenant="flood")
    await waiting.add("one", 600, tenant="one")
    for name in waiting.granted[:2]:
        waiting.gate.done(waiting.turns[name])
    await settle()
    assert "one" in waiting.granted[:4]


async def test_the_urgent_goes_first_within_a_tenant() -> None:
    waiting = Waiting(make())
    for name, priority in (("first", 0), ("late", 1), ("urgent", -1)):
        await waiting.add(name, 1000, priority=priority)
    for name in ("first", "urgent", "late"):
        assert waiting.granted[-1] == name
        waiting.gate.done(waiting.turns[name])
        await settle()


@pytest.mark.parametrize("is_granted", [False, True])
async def test_who_gives_up_holds_nobody_up(is_granted: bool) -> None:
    """Also when the turn came in the same moment."""
    waiting = Waiting(make())
    for name in ("a", "b", "c"):
        await waiting.add(name, 1000)
    if is_granted:
        waiting.gate.done(waiting.turns["a"])
    waiting.tasks["b"].cancel()
    await settle()
    if not is_granted:
        assert waiting.gate.num_waiting_tokens == 1000
        waiting.gate.done(waiting.turns["a"])
        await settle()
    assert waiting.granted == ["a", "c"]
    waiting.gate.done(waiting.turns["c"])
    assert (waiting.gate.num_waiting_tokens, waiting.gate._num_on_the_way) == (0, 0)
