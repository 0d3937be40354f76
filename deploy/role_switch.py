"""One worker whose role can change in place: both roles drive the same engine.

1. The engine is built once, in its thread (EngineHost); the first role is built upon it.
2. `flip` runs in the engine's thread, between two steps: the old role ends what it still has (a prompt
   goes on on the decode worker that waits for it), nobody may hold a block any more, and the new role is
   built upon the same engine. Weights, KV memory, known prefixes and the profile stay.
3. Whoever subscribed gets an empty step, sees that `info` is another one, and tells its router.
4. Streams that the prefill role had opened go on to their end; new ones are refused by the decode role.

Routers drain a worker before they flip it, so that in practice nothing is left to end.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from common.config import WorkerSpec
from common.kv_transfer.transport import KVSource, TransferError
from common.kv_transfer.wire import WireItem
from common.ledger import BlockLedger
from common.messages import Role, StepOutput, WorkerInfo, WorkerLoad, WorkRequest
from common.prefix_log import PrefixLog
from common.rpc.worker_service import WorkerPort
from common.telemetry.logs import get_logger

if TYPE_CHECKING:
    from common.worker.host import EngineHost

FLIP_TIMEOUT_S = 30.0


class RoleWorker(WorkerPort, Protocol):
    """A role's life: built upon an engine, started, and retired or stopped."""

    def start(self) -> None:
        """Have the engine's thread do this role's work."""

    def retire(self) -> None:
        """End all work and take none any more. In the engine's thread."""

    def stop(self, timeout_s: float) -> bool:
        """Stop the engine's thread; whether it stopped in time."""


@dataclass(frozen=True, slots=True)
class Built:
    """A role's worker; as a `source` it ships KV."""

    worker: RoleWorker
    source: KVSource | None = None


Builders = Mapping[Role, Callable[[WorkerSpec, "EngineHost"], Built]]


class RoleSwitch:
    """A WorkerPort and KVSource that stand for whatever role the process has."""

    def __init__(self, spec: WorkerSpec, host: "EngineHost", builders: Builders) -> None:
        self._spec = spec
        self._host = host
        self._builders = builders
        self._sinks: list[Callable[[StepOutput], None]] = []
        self._built = self._build(Role(spec.role))

    @property
    def info(self) -> WorkerInfo:
        """See WorkerPort; another one after a flip."""
        return self._built.worker.info

    @property
    def prefixes(self) -> PrefixLog:
        """See WorkerPort; of the engine, so that it goes on over a flip."""
        return self._built.worker.prefixes

    def start(self) -> None:
        """Start working."""
        self._built.worker.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop; whether it stopped in time."""
        return self._built.worker.stop(timeout_s)

    def flip(self, role: Role) -> None:
        """Take a role, if it is another one.

        Raises TimeoutError when the engine does not come to it; it will not flip later either.
        """
        done = threading.Event()
        begun = (
            threading.Lock()
        )  # whoever takes it first, the engine or the end of the wait, has its way

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
        # begun in the last moment: it ends what it has and builds the new role
        if not has_changed and not done.wait(FLIP_TIMEOUT_S):
            raise TimeoutError(
                f"{self._spec.name} began to flip and did not end in {FLIP_TIMEOUT_S} s"
            )

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        """See KVSource.stream. Raises TransferError while the worker decodes."""
        source = self._built.source
        if source is None:
            raise TransferError(f"{self._spec.name} is no prefill worker now")
        return source.stream(request)

    def cancel_stream(self, request_id: str, attempt: int) -> None:
        """See KVSource.cancel_stream."""
        if self._built.source is not None:
            self._built.source.cancel_stream(request_id, attempt)

    def submit(self, request: WorkRequest) -> None:
        """See WorkerPort.submit."""
        self._built.worker.submit(request)

    def cancel(self, request_id: str) -> None:
        """See WorkerPort.cancel."""
        self._built.worker.cancel(request_id)

    def load(self) -> WorkerLoad:
        """See WorkerPort.load."""
        return self._built.worker.load()

    def ask_blocks(self, request_id: str, answer: Callable[[BlockLedger], None]) -> None:
        """See WorkerPort.ask_blocks."""
        self._built.worker.ask_blocks(request_id, answer)

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """See WorkerPort.subscribe."""
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
