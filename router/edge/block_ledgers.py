"""Block ledgers of the workers: the holders of their KV blocks."""

import asyncio
from collections.abc import Sequence

from common.ledger import BlockQuestion
from pdserve.errors import UnavailableError
from pdserve.v1 import ledger_pb2
from router.journey.work_ids import WorkIds
from router.workers.pool import WorkerPool
from router.workers.view import WorkerState, WorkerView

_WITHIN_S = 2.0  # a worker answers between two steps

_NO_ANSWER = (WorkerState.UNREACHABLE, WorkerState.RESTARTING, WorkerState.RETIRED)


class BlockLedgers:
    """Reads the workers' ledgers, as far as they answer within a deadline."""

    def __init__(self, pool: WorkerPool, work_ids: WorkIds, within_s: float = _WITHIN_S) -> None:
        self._pool = pool
        self._work_ids = work_ids
        self._within_s = within_s

    async def read_all(self, *, is_check: bool = False) -> list[ledger_pb2.WorkerBlocks]:
        """Return the ledger of every known worker, by role and name. Raises nothing.

        `is_check` has the workers check the invariants of their KV memory too.
        """
        return await self._ask(self._pool.views(), BlockQuestion(is_check=is_check))

    async def read_some(self, views: Sequence[WorkerView]) -> list[ledger_pb2.WorkerBlocks]:
        """Return the ledgers of these workers, in their order. Raises nothing."""
        return await self._ask(views, BlockQuestion())

    async def read_request(self, request_id: str) -> list[ledger_pb2.WorkerBlocks]:
        """Return one request's part of the ledgers: workers that have it, or that did not answer."""
        work_id = self._work_ids.find(request_id)
        if work_id is None:
            return []
        answers = await self._ask(self._pool.views(), BlockQuestion(work_id))
        return [answer for answer in answers if answer.problem or answer.ledger.num_holders]

    async def _ask(
        self, views: Sequence[WorkerView], question: BlockQuestion
    ) -> list[ledger_pb2.WorkerBlocks]:
        return await asyncio.gather(*(self._ask_one(view, question) for view in views))

    async def _ask_one(self, view: WorkerView, question: BlockQuestion) -> ledger_pb2.WorkerBlocks:
        name = view.info.name
        if view.state in _NO_ANSWER:
            return ledger_pb2.WorkerBlocks(worker=name, problem=str(view.state))
        try:
            async with asyncio.timeout(self._within_s):
                ledger = await self._pool.link(name).ask_blocks(question)
        except TimeoutError:
            problem = f"no answer in {self._within_s:g} s"
            return ledger_pb2.WorkerBlocks(worker=name, problem=problem)
        except UnavailableError as error:
            return ledger_pb2.WorkerBlocks(worker=name, problem=error.message)
        for holder in ledger.holders:
            holder.request_id = self._work_ids.to_public(holder.request_id)
        return ledger_pb2.WorkerBlocks(worker=name, ledger=ledger)
