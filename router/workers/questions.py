"""Questions to a worker that wait for their answers."""

import asyncio
from itertools import count

from pdserve.errors import UnavailableError
from pdserve.v1 import ledger_pb2


class Questions:
    """Open questions by number. Lives on the router's event loop; the caller sets the deadline."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[ledger_pb2.BlockLedger]] = {}

    def ask(self) -> tuple[int, "asyncio.Future[ledger_pb2.BlockLedger]"]:
        """Return a new question's number, and the future of its answer."""
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._open[number] = answer
        answer.add_done_callback(lambda _: self._open.pop(number, None))
        return number, answer

    def settle(self, number: int, ledger: ledger_pb2.BlockLedger) -> None:
        """Answer a question; ignored when no caller waits for it any more."""
        answer = self._open.get(number)
        if answer is not None and not answer.done():
            answer.set_result(ledger)

    def lose(self, reason: str) -> None:
        """Give all open questions an UnavailableError: no answer will come."""
        for answer in [*self._open.values()]:
            if not answer.done():
                answer.set_exception(UnavailableError(reason))
