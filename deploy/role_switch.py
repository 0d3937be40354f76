"""A worker whose role can change in place: both roles drive the same engine.

1. The engine is built once, in its thread (EngineHost); the first role is built on it.
2. `flip` runs in the engine's thread, between two steps. The old role ends its remaining work; a
   prompt continues on the decode worker that waits for it. When no block is held, the new role is
   built on the same engine. Weights, KV memory, known prefixes and the profile stay.
3. Each subscriber gets an empty step, sees that `info` has changed, and tells its router.
4. KV streams that the prefill role had opened run to their end; the decode role refuses new ones.

Routers drain a worker before they flip it, so that in practice no work is left.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from common.config import WorkerSpec
from common.kv_transfer.transport import KVSource, TransferError
from common.kv_transfer.wire import WireItem
from common.ledger import BlockLedger, BlockQuestion
from common.messages import Role, StepOutput, WorkerInfo, WorkerLoad, WorkRequest
from common.prefix_log import PrefixLog
from common.rpc.worker_port import WorkerPort
from common.telemetry.logs import get_logger

if TYPE_CHECKING:
    from common.worker.host import EngineHost

FLIP_TIMEOUT_S = 30.0


class RoleWorker(WorkerPort, Protocol):
    """Life cycle of a role: built on an engine, started, then retired or stopped."""

    def start(self) -> None:
        """Make the engine's thread do this role's work."""

    def retire(self) -> None:
        """End all work and refuse new work. Runs in the engine's thread."""

    def stop(self, timeout_s: float) -> bool:
        """Stop the engine's thread; return True if it stopped in time."""


@dataclass(frozen=True, slots=True)
class Built:
    """A role's worker; `source` ships KV, and only prefill has one."""

    worker: RoleWorker
    source: KVSource | None = None


Builders = Mapping[Role, Callable[[WorkerSpec, "EngineHost"], Built]]


class RoleSwitch:
    """WorkerPort and KVSource that delegate to the current role's worker."""

    def __init__(self, spec: WorkerSpec, host: "EngineHost", builders: Builders) -> None:
        self._spec = spec
        self._host = host
        self._builders = builders
        self._sinks: list[Callable[[StepOutput], None]] = []
        self._built = self._build(Role(spec.role))

    @property
    def info(self) -> WorkerInfo:
        """WorkerPort.info of the current role; changes with a flip."""
        return self._built.worker.info

    @property
    def prefixes(self) -> PrefixLog:
        """WorkerPort.prefixes of the engine; a flip does not reset it."""
        return self._built.worker.prefixes

    def start(self) -> None:
        """Start the current role's work."""
        self._built.worker.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop; return True if the engine's thread stopped in time."""
        return self._built.worker.stop(timeout_s)

    def flip(self, role: Role) -> None:
        """Take this role, if it is not the current one.

        Raises TimeoutError if the engine does not react in time; then it will not flip later
        either.
        """
        done = threading.Event()
        begun = threading.Lock()  # the first to take it decides: the engine, or the end of the wait

        def change() -> None:
            if not begun.acquire(blocking=False):
                return
            # no handler: an engine that fails here must end the process, as in a step
            if role is not self.info.role:
                self._change(role)
            done.set()

        self._host.loop.post(change)
        has_changed = done.wait(FLIP_TIMEOUT_S)
        if not has_changed and begun.acquire(blocking=False):
            raise TimeoutError(f"{self._spec.name} did not flip in {FLIP_TIMEOUT_S} s")
        # the flip began at the last moment: wait until the old role ends and the new one is built
        if not has_changed and not done.wait(FLIP_TIMEOUT_S):
            raise TimeoutError(
                f"{self._spec.name} began to flip and did not end in {FLIP_TIMEOUT_S} s"
            )

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        """Run KVSource.stream. Raises TransferError while the worker decodes."""
        source = self._built.source
        if source is None:
            raise TransferError(f"{self._spec.name} is no prefill worker now")
        return source.stream(request)

    def cancel_stream(self, request_id: str, attempt: int) -> None:
        """Run KVSource.cancel_stream, if the current role has a source."""
        if self._built.source is not None:
            self._built.source.cancel_stream(request_id, attempt)

    def submit(self, request: WorkRequest) -> None:
        """Run WorkerPort.submit on the current role."""
        self._built.worker.submit(request)

    def cancel(self, request_id: str) -> None:
        """Run WorkerPort.cancel on the current role."""
        self._built.worker.cancel(request_id)

    def load(self) -> WorkerLoad:
        """Return WorkerPort.load of the current role."""
        return self._built.worker.load()

    def ask_blocks(self, question: BlockQuestion, answer: Callable[[BlockLedger], None]) -> None:
        """Run WorkerPort.ask_blocks on the current role."""
        self._built.worker.ask_blocks(question, answer)

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """Add a sink for the steps of all later roles too; return a function that removes it."""
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink)

    def _change(self, role: Role) -> None:
        self._built.worker.retire()
        self._host.engine.pool.check_integrity([])
        self._built = self._build(role)
        self._built.worker.start()
        get_logger().info("role_changed", role=str(role))
        self._publish(StepOutput())

    def _build(self, role: Role) -> Built:
        spec = self._spec.model_copy(update={"role": str(role)})
        built = self._builders[role](spec, self._host)
        built.worker.subscribe(self._publish)
        return built

    def _publish(self, output: StepOutput) -> None:
        for sink in tuple(self._sinks):
            sink(output)
