"""Load of a chaos run: users who ask questions, one after another, and compare the answers."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence

from benchmarks.chaos.asking import Asking, Choice
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.questions import Question
from pdserve.client import AsyncClient

ANSWER_WITHIN_S = 300.0  # waits for restarts included
_ORACLES_AT_ONCE = 4


async def ask_undisturbed(
    fleet: Fleet, questions: Sequence[Question]
) -> dict[Question, tuple[Choice, ...]]:
    """Return each question's answer from before any fault. Raises RuntimeError."""
    gate, found = asyncio.Semaphore(_ORACLES_AT_ONCE), dict[Question, tuple[Choice, ...]]()

    async def ask(place: int, question: Question) -> None:
        async with gate:
            asking = Asking(question, f"undisturbed-{place}")
            await asking.run(fleet.client, ANSWER_WITHIN_S)
        if asking.error:
            raise RuntimeError(f"no undisturbed answer: {asking.error}")
        found[question] = asking.answer()

    await asyncio.gather(*(ask(*numbered) for numbered in enumerate(questions)))
    return found


class Load:
    """Users of a deployment, until a moment."""

    def __init__(
        self, fleet: Fleet, expected: Mapping[Question, tuple[Choice, ...]], draw: random.Random
    ) -> None:
        self.ended: list[Asking] = []
        self.num_right = 0
        self._fleet = fleet
        self._expected = expected
        self._questions = list(expected)
        self._draw = draw
        self._number = 0

    async def run(self, users: int, until_s: float) -> None:
        """Ask till then; return when every question has ended."""
        joined = self._fleet.joined
        for_two = [joined.address, self._fleet.address] if joined else None
        await asyncio.gather(
            *(self._use(until_s, for_two if user % 2 else None) for user in range(users))
        )

    async def _use(self, until_s: float, routers: list[str] | None) -> None:
        """Ask one question after another; resumable ones where the user has these `routers`."""
        while time.monotonic() < until_s:
            self._number += 1
            question, name = self._draw.choice(self._questions), f"chaos-{self._number}"
            asking = Asking(question, name, is_resumable=routers is not None)
            self._fleet.running[asking.request_id] = asking
            if routers is None:
                await asking.run(self._fleet.client, ANSWER_WITHIN_S)
            else:
                async with AsyncClient(routers) as client:
                    await asking.run(client, ANSWER_WITHIN_S)
            del self._fleet.running[asking.request_id]
            self.ended.append(asking)
            self.num_right += asking.agrees_with(self._expected[asking.question])
