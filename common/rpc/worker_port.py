"""A worker as the gRPC service sees it."""

from collections.abc import Callable
from typing import Protocol

from common.ledger import BlockLedger, BlockQuestion
from common.messages import StepOutput, WorkerInfo, WorkerLoad, WorkRequest
from common.prefix_log import PrefixLog


class WorkerPort(Protocol):
    """A worker as the service sees it. All methods may be called from any thread."""

    @property
    def info(self) -> WorkerInfo:
        """Identity of the worker: the same object until its role changes."""

    @property
    def prefixes(self) -> PrefixLog:
        """Log of the prefixes that the worker's blocks hold."""

    def submit(self, request: WorkRequest) -> None:
        """Start a request."""

    def cancel(self, request_id: str) -> None:
        """Stop a request; ignore unknown ids."""

    def load(self) -> WorkerLoad:
        """Return the load now."""

    def ask_blocks(self, question: BlockQuestion, answer: Callable[[BlockLedger], None]) -> None:
        """Call `answer` with the ledger before the next step, in the engine's thread.

        The ledger is of all requests, or of one request or group, as the question says.
        """

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """Call `sink` after every step, in the engine's thread; return the function that ends it."""
