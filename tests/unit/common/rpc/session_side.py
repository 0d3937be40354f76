"""A worker with one router's session, and connections that a test makes by hand."""

import asyncio
from collections.abc import Sequence

from common.messages import SamplingParams, SequenceOutput, StepOutput, WorkRequest
from common.rpc.router_session import RouterSession
from pdserve.v1 import worker_pb2
from tests.integration.support.scripted_worker import ScriptedWorker

NEVER_S = 3600.0


class Line:
    """A connection: what the worker sent on it, of which a cut loses the last part."""

    def __init__(self) -> None:
        self.sent: list[SequenceOutput] = []
        self.is_closed = False

    def put(self, step: StepOutput) -> None:
        """Note what was sent."""
        self.sent += step.sequences

    def close(self) -> None:
        """Note the end."""
        self.is_closed = True


class Side:
    """A worker and one router's session there."""

    def __init__(self, lease_s: float = NEVER_S) -> None:
        self.worker = ScriptedWorker()
        self.ended: list[str] = []
        self._lease_s = lease_s
        self.session = self.open()

    def open(self) -> RouterSession:
        """Return a new session, as the service makes it for a router that it does not know."""
        self.session = RouterSession(
            self.worker, self._lease_s, lambda: self.ended.append("session")
        )
        return self.session

    def attach(
        self, number: int, *wanted: tuple[str, int], resubmitted: Sequence[str] = ()
    ) -> Line:
        line = Line()
        works = [
            worker_pb2.WantedWork(
                request_id=name, next_index=index, is_resubmitted=name in resubmitted
            )
            for name, index in wanted
        ]
        message = worker_pb2.Attach(router_id="me", stream_number=number, wanted=works)
        assert self.session.attach(message, line)
        return line

    async def say(self, name: str, text: str, index: int = 0, *, ends: bool = False) -> None:
        """Let the engine produce tokens, and the event loop take them."""
        self.worker.say(work(name), text, index, ends=ends)
        await asyncio.sleep(0)


def work(name: str, attempt: int = 1) -> WorkRequest:
    """Return a request of this name."""
    return WorkRequest(name, attempt, (1, 2), SamplingParams(0.0, 0, 100))
