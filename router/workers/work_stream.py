"""Stream of one choice's outputs, from its worker to its reader."""

from typing import Protocol

from common.messages import SequenceOutput, WorkFailure
from router.workers.unread import Unread


class Sender(Protocol):
    """The link on which a stream's job was sent."""

    def release(self, stream: "WorkStream") -> None:
        """Forget a stream; a worker that still works on it is told to stop. Safe to repeat."""


class WorkStream:
    """Outputs of one choice as they come from its worker."""

    def __init__(self, request_id: str, max_unread_tokens: int) -> None:
        self.request_id = request_id
        self.is_on_probation = False  # its choice may be the cause of an earlier worker's death
        self.has_lost_prefill = (
            False  # so the decode worker runs the prompt, until it is told to stop
        )
        self._outputs = Unread(max_unread_tokens)
        self._sender: Sender | None = None

    def put(self, output: SequenceOutput) -> None:
        """Add an output of the worker."""
        self._outputs.put(output)

    @property
    def is_full(self) -> bool:
        """True while more tokens are unread than a client may leave unread."""
        return self._outputs.is_full

    def fail(self, failure: WorkFailure) -> None:
        """End the stream with a failure."""
        self.has_lost_prefill |= failure.is_of_prefill
        self.put(SequenceOutput(self.request_id, 0, failure=failure))

    def submitted(self, sender: Sender) -> None:
        """Note the link on which the stream's job was sent."""
        self._sender = sender

    def end(self, failure: WorkFailure) -> None:
        """End the stream with a failure, and its work at once, even before unread outputs are read."""
        self.fail(failure)
        self.close()

    def close(self) -> None:
        """End the stream's work at its worker, if that still goes on. Safe to repeat."""
        if self._sender is not None:
            self._sender.release(self)

    async def next(self) -> SequenceOutput:
        """Wait for the next output. None follows a finish or failure."""
        return await self._outputs.get()
