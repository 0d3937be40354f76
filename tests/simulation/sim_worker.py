"""Worker processes of the simulation: the real schedulers, inbox, outbox and gRPC service, no threads."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common.config import EngineConfig, TransferConfig, WorkerSpec
from common.engine.batch import BatchEntry
from common.engine.build import Engine
from common.kv_transfer.transport import TransferError
from common.messages import Role
from common.rpc.worker_service import WorkerService
from common.worker.host import EngineHost
from common.worker.loop import Message
from decode_worker.pull import Chunk, News, Pull, PullFailed
from decode_worker.worker import make_decode_worker
from prefill_worker.source import PrefillSource
from prefill_worker.worker import make_prefill_worker
from tests.simulation.hash_engine import make_engine
from tests.simulation.sim_transport import POLL_S, SimStream, SimTransport

STEP_S = 0.02
Deliver = Callable[[Pull, News], None]


class SimLoop:
    """Stands in for EngineLoop: steps are a task of the simulation's loop, each taking `step_s`."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.is_hung = False
        self.last_progress_s = time.monotonic()
        self._mailbox: deque[Message] = deque()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def progress_age_s(self) -> float:
        return time.monotonic() - self.last_progress_s if self.is_hung else 0.0

    def start(self, step: Callable[[], bool], on_idle: Message) -> None:
        self._task = asyncio.create_task(self._run(step, on_idle))

    def post(self, message: Message) -> None:
        self._mailbox.append(message)
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, step: Callable[[], bool], on_idle: Message) -> None:
        while True:
            while self._mailbox and not self.is_hung:
                self._mailbox.popleft()()
            if not self.is_hung and step():
                self.last_progress_s = time.monotonic()
                await asyncio.sleep(self.step_s)
                continue
            self._news.clear()
            if self._mailbox and not self.is_hung:
                continue
            try:
                async with asyncio.timeout(1.0):
                    await self._news.wait()
            except TimeoutError:
                if not self.is_hung:
                    on_idle()


class SimPulls:
    """Stands in for the Inbox's threads: each pull is a task."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, run: Any, transport: SimTransport, timeout_s: float, deliver: Deliver) -> None:
        task = asyncio.create_task(self._drive(run.__self__, transport, timeout_s, deliver))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def shutdown(self, **_: object) -> None:
        for task in self._tasks:
            task.cancel()

    async def _drive(
        self, pull: Pull, transport: SimTransport, timeout_s: float, deliver: Deliver
    ) -> None:
        """Do as Pull.run."""
        try:
            await asyncio.sleep(POLL_S)
            pull._stream = stream = transport.open(pull.request.prefill_worker or "", pull.request)
            while await self._pass_on(pull, stream, timeout_s, deliver):
                pass
            if pull._next_start < pull.seq.num_given_tokens or not pull._has_first_token:
                raise TransferError("the stream ended early")
        except Exception as error:
            if not pull.is_closed:
                pull.close()
                deliver(pull, PullFailed(error))

    async def _pass_on(
        self, pull: Pull, stream: SimStream, timeout_s: float, deliver: Deliver
    ) -> bool:
        while not pull._room.acquire(blocking=False):
            await asyncio.sleep(POLL_S)
        item = None if pull.is_closed else await stream.next_item(pull, timeout_s)
        if item is None or pull.is_closed:
            return False
        news = pull._parse(item)
        if not isinstance(news, Chunk):
            pull._room.release()
        deliver(pull, news)
        return True


class SimProcess:
    """One life of a worker's process."""

    def __init__(
        self,
        name: str,
        role: Role,
        transport: SimTransport,
        config: EngineConfig,
        num_blocks: int,
        on_entry: Callable[[BatchEntry], None] = lambda entry: None,
    ) -> None:
        self.name, self.role, self.is_alive = name, role, True
        self.loop, self.streams = SimLoop(STEP_S), list[SimStream]()
        self.engine: Engine = make_engine(num_blocks, config, on_entry)
        self.source: PrefillSource | None = None
        spec = WorkerSpec(
            name=name,
            role=str(role),
            model_dir=Path("."),
            model_name="hash",
            namespace="simulated",
            num_threads=1,
            engine=config,
            transfer=TransferConfig(max_concurrent_pulls=4, item_timeout_s=5.0),
        )
        loop: Any = self.loop
        host = EngineHost(loop, self.engine)
        with (
            patch("decode_worker.worker.Grammars", _NoGrammars),
            patch("prefill_worker.worker.Grammars", _NoGrammars),
            patch("decode_worker.inbox.ThreadPoolExecutor", lambda *_: SimPulls()),
        ):
            if role is Role.PREFILL:
                made = make_prefill_worker(spec, host)
                self.shell: Any = made.shell
                self.source = made.source
            else:
                self.shell = make_decode_worker(spec, host, transport)
        self.prefill: Any = self.shell._engine
        self.service = WorkerService(self.shell)
        transport.processes[name] = self
        self.shell.start()

    def kill(self) -> None:
        """End the process at once; whoever holds its connections must break them."""
        self.is_alive = False
        self.loop.kill()
        for stream in self.streams:
            stream.end_here()
        if self.role is Role.DECODE:
            self.shell._engine._inbox._threads.shutdown()

    def check_at_rest(self) -> None:
        """Fail if a block is held, or if something waits."""
        load = self.shell._engine.load()
        assert load.blocks_free == load.blocks_total, f"{self.name} holds blocks"
        assert (load.num_running, load.num_waiting) == (0, 0)
        self.shell._engine.check_integrity()
        for session in self.service._sessions.values():
            assert (session.num_live, [*session._kept]) == (0, []), f"{self.name} keeps outputs"


class _NoGrammars:
    def __init__(self, *_: object) -> None:
        pass

    def collect(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass
