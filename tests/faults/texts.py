"""Questions of tests of faults, asked all at once; and what must hold when a fault is over."""

import asyncio
import random
from collections.abc import Mapping, Sequence

from benchmarks.chaos.asking import Asking, Choice
from benchmarks.chaos.fleet import Fleet, adds_up, held
from benchmarks.chaos.questions import Question, Sizes, draw_questions
from tests.integration.support.processes import START_TIMEOUT_S
from tests.patience import WITHIN_S

QUESTIONS = draw_questions(random.Random(18), 2, Sizes())
# a wait for a restart included
ANSWER_WITHIN_S = START_TIMEOUT_S


class Answers:
    """Questions on their way."""

    def __init__(
        self,
        fleet: Fleet,
        questions: Sequence[Question],
        name: str,
        *,
        is_resumable: bool = False,
    ) -> None:
        self.askings = [
            Asking(one, f"{name}-{place}", is_resumable=is_resumable)
            for place, one in enumerate(questions)
        ]
        self._fleet = fleet
        fleet.running.update({asking.request_id: asking for asking in self.askings})
        self._tasks = [asyncio.create_task(self._run(asking)) for asking in self.askings]

    async def until_messages(self, number: int) -> None:
        """Wait until so many messages have come in all."""
        async with asyncio.timeout(WITHIN_S):
            while sum(len(asking.times_s) for asking in self.askings) < number:
                await asyncio.sleep(0.002)

    async def all(self) -> list[Asking]:
        """Return the questions when all have ended."""
        await asyncio.gather(*self._tasks)
        return self.askings

    async def _run(self, asking: Asking) -> None:
        await asking.run(self._fleet.client, ANSWER_WITHIN_S)
        del self._fleet.running[asking.request_id]


async def ask_all(fleet: Fleet, questions: Sequence[Question], name: str) -> list[Asking]:
    """Ask all at once; return what came, in order."""
    return await Answers(fleet, questions, name).all()


def check_answers(
    askings: Sequence[Asking], expected: Mapping[Question, tuple[Choice, ...]]
) -> None:
    """Check that each answer is that of the undisturbed run; of a cancelled one, its beginning."""
    for asking in askings:
        whole = expected[asking.question]
        assert asking.agrees_with(whole), (
            f"{asking.request_id} {asking.question.kind} {asking.error}\n"
            f"is {asking.answer()}\nnot {whole}"
        )


async def check_nothing_is_left(fleet: Fleet) -> None:
    """Check that no worker holds a block, and that the requests add up."""
    status = await fleet.until_at_rest(WITHIN_S)
    assert not any(held(status).values()), held(status)
    assert adds_up(status.router.totals), status.router.totals
    for worker in (await fleet.client.blocks(timeout=WITHIN_S)).workers:
        assert (worker.problem, worker.ledger.num_holders) == ("", 0), worker
        assert worker.ledger.blocks_unaccounted == 0, worker
