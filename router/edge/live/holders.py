"""The workers' own word on their KV memory, read again and again while a page is open."""

import asyncio

from pdserve.v1 import ledger_pb2
from router.edge.block_ledgers import BlockLedgers
from router.workers.view import WorkerView

_PAUSE_S = 0.5
_WORKERS_A_SECOND = 64  # asked at most: a ledger takes some microseconds a request to make
_STATES = {
    number: name.removeprefix("HOLDER_STATE_").lower()
    for name, number in ledger_pb2.HolderState.items()
}


class Holders:
    """The latest ledger of each worker. A worker that does not answer has none."""

    def __init__(self, ledgers: BlockLedgers) -> None:
        self._ledgers = ledgers
        self._latest: dict[str, ledger_pb2.BlockLedger] = {}
        self._requests: dict[tuple[str, str], ledger_pb2.BlockHolder] = {}
        self.views: list[WorkerView] = []  # of the workers to ask

    async def follow(self) -> None:
        """Read the ledgers until cancelled."""
        while True:
            answers = await self._ledgers.read_some(self.views)
            self._latest = {a.worker: a.ledger for a in answers if a.HasField("ledger")}
            self._requests = {
                (worker, holder.request_id): holder
                for worker, ledger in self._latest.items()
                for holder in ledger.holders
            }
            await asyncio.sleep(max(_PAUSE_S, len(self.views) / _WORKERS_A_SECOND))

    def blocks(self, worker: str) -> dict[str, int] | None:
        """Return a worker's blocks by what holds them; all add up to its capacity."""
        ledger = self._latest.get(worker)
        if ledger is None:
            return None
        return {
            **{_STATES[held.state]: held.num_blocks for held in ledger.held if held.num_blocks},
            "unaccounted": ledger.blocks_unaccounted,
            "cached": ledger.blocks_cached,
            "free": ledger.blocks_free - ledger.blocks_cached,
        }

    def state(self, worker: str | None, name: str) -> str | None:
        """Return what a worker last said of a choice, such as "decoding"; None if nothing."""
        holder = self._requests.get((worker or "", name))
        return None if holder is None else _STATES[holder.state]

    def num_computed_tokens(self, worker: str | None, name: str) -> int | None:
        """Return how many tokens of a choice have KV on a worker; None if it said nothing."""
        holder = self._requests.get((worker or "", name))
        return None if holder is None else holder.num_computed_tokens
