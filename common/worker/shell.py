"""Surroundings of an engine, the same in workers of both roles.

1. `start` makes the loop (loop.py) call `step` of the role's engine in the engine's thread.
2. A router's `submit` and `cancel` go to the role's intake, which posts them to that thread.
3. Outputs of a step leave through the feed (step_feed.py), to all subscribers.
4. `retire` ends the role's work; another role may then be built upon the same EngineHost.
   `stop` ends the thread itself, and only then what the thread uses.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from common.config import WorkerSpec
from common.ledger import BlockLedger, BlockQuestion, Integrity, StreamUse
from common.messages import StepOutput, WorkerInfo, WorkerLoad, WorkRequest
from common.worker.host import EngineHost
from common.worker.identity import at_this_moment, make_info
from common.worker.step_faults import with_step_faults
from common.worker.step_feed import StepFeed


class RoleEngine(Protocol):
    """A role's engine. All methods but `close` run in the engine's thread."""

    def step(self) -> bool:
        """Do one step and publish what it produced; return False when there was nothing to do."""

    def load(self) -> WorkerLoad:
        """Return the load now."""

    def ledger(self, request_id: str) -> BlockLedger:
        """Return which requests hold which blocks: all of them, or those of one request or group."""

    def check_integrity(self) -> None:
        """Raise AssertionError where a block is held by no live request."""

    def retire(self) -> None:
        """End all work, say so, and refuse what still comes."""

    def close(self) -> None:
        """Stop the threads that work for the engine."""


class RoleIntake(Protocol):
    """A role's way to take a router's requests. Its methods may be called from any thread."""

    def submit(self, request: WorkRequest) -> None:
        """Start a request, or publish why it cannot run."""

    def cancel(self, request_id: str) -> None:
        """Stop a request; ignore unknown ids."""


E = TypeVar("E", bound=RoleEngine)


class WorkerShell(Generic[E]):
    """A WorkerPort for routers: identity, loop, feed and load around one role's engine."""

    def __init__(
        self,
        spec: WorkerSpec,
        host: EngineHost,
        engine: E,
        intake: RoleIntake,
        feed: StepFeed,
        stream_use: Callable[[], StreamUse],
    ) -> None:
        """`stream_use` tells the use of KV streams; the engine's thread calls it."""
        self.info: WorkerInfo = make_info(spec, host.engine.spec, host.engine.costs.profile)
        self.prefixes = host.engine.pool.prefixes
        self._loop = host.loop
        self._store = host.store
        self._engine = engine
        self._intake = intake
        self._feed = feed
        self._feed.load = engine.load()
        self._stream_use = stream_use

    def start(self) -> None:
        """Let the engine's thread do this role's work."""
        step = with_step_faults(self.info.name, self._step)
        self._loop.start(step, self._engine.check_integrity)

    def retire(self) -> None:
        """End all work with WORKER_LOST and take no more. Runs in the engine's thread."""
        self._engine.retire()
        self._engine.close()

    def stop(self, timeout_s: float) -> bool:
        """Stop the engine's thread; return False if it did not stop in time."""
        has_stopped = self._loop.stop(timeout_s)
        self._engine.close()  # behind the thread, which uses what this ends
        return has_stopped

    def submit(self, request: WorkRequest) -> None:
        """Start a request (WorkerPort)."""
        self._intake.submit(request)

    def cancel(self, request_id: str) -> None:
        """Stop a request (WorkerPort)."""
        self._intake.cancel(request_id)

    def load(self) -> WorkerLoad:
        """Return the latest step's load, with what changes between steps brought up to date."""
        return at_this_moment(self._feed.load, self._loop.progress_age_s, self._store)

    def ask_blocks(self, question: BlockQuestion, answer: Callable[[BlockLedger], None]) -> None:
        """Call `answer` with the ledger before the next step, in the engine's thread (WorkerPort)."""
        self._loop.post(lambda: answer(self._answer(question)))

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """Call `sink` after every step, in the engine's thread (WorkerPort)."""
        return self._feed.subscribe(sink)

    def _answer(self, question: BlockQuestion) -> BlockLedger:
        ledger = self._engine.ledger(question.request_id)
        integrity = self._integrity() if question.is_check else Integrity()
        return replace(ledger, streams=self._stream_use(), integrity=integrity)

    def _integrity(self) -> Integrity:
        try:
            self._engine.check_integrity()
        except AssertionError as error:  # told to whom asked; the check when idle ends the worker
            return Integrity(is_checked=True, problem=str(error))
        return Integrity(is_checked=True)

    def _step(self) -> bool:
        worked = self._engine.step()
        if not worked:  # otherwise the step published its load
            self._feed.load = self._engine.load()
        return worked
