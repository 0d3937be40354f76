"""Real prefill and decode workers in one process, with in-process transport and no router.

Nothing here sleeps to let something happen. `Answers` waits on a condition. `in_engine` runs a
function in an engine's own thread, after everything posted before it. Gates
(kv_faults.py) hold a thread.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from unittest.mock import patch

from common.config import EngineConfig, TransferConfig
from common.engine.build import Engine
from common.kv_transfer.in_process import InProcessTransport
from common.kv_transfer.node_store import UNLIMITED, NodeStore
from common.kv_transfer.transport import KVSource
from common.messages import (
    FinishReason,
    SamplingParams,
    SequenceOutput,
    StepOutput,
    TokenLogprobs,
    WorkerLoad,
    WorkFailure,
    WorkRequest,
)
from common.timings import WorkTimings
from common.worker.host import build_host
from common.worker.shell import WorkerShell
from decode_worker.engine import DecodeEngine
from decode_worker.worker import make_decode_worker
from prefill_worker.engine import PrefillEngine
from prefill_worker.worker import make_prefill_worker
from tests.integration.support.worker_spec import worker_spec
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import engine_config

PREFILL = "prefill-0"
# a prompt of 40 tokens has chunks of 16, 16 and 8; its items are chunk, chunk, token 1, chunk
CHUNKS_OF_16 = engine_config(max_batch_tokens=16, max_num_seqs=8)
T = TypeVar("T")
Worker = WorkerShell[PrefillEngine] | WorkerShell[DecodeEngine]


@dataclass
class Answer:
    """A decode worker's output for one request."""

    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    failure: WorkFailure | None = None
    timings: WorkTimings | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)


class Answers:
    """Collector of a worker's outputs; checks that every token comes once and in order."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._changed = threading.Condition()
        self._faults: list[str] = []

    def take(self, step: StepOutput) -> None:
        """Take a step's outputs; runs in the engine's thread."""
        with self._changed:
            for output in step.sequences:
                self._take_one(output)
            self._changed.notify_all()

    def _take_one(self, output: SequenceOutput) -> None:
        answer = self._answers.setdefault(output.request_id, Answer())
        if output.index != len(answer.tokens) or answer.finish_reason or answer.failure:
            self._faults.append(f"{output} after {answer}")
        answer.tokens += output.token_ids
        answer.logprobs += output.logprobs
        answer.prompt_logprobs += output.prompt_logprobs
        answer.finish_reason, answer.failure = output.finish_reason, output.failure
        answer.timings = output.timings

    def wait(self, request_id: str, is_enough: Callable[[Answer], bool]) -> Answer:
        """Return the answer when `is_enough`; fails after WITHIN_S."""
        with self._changed:
            known = self._answers.setdefault(request_id, Answer())
            assert self._changed.wait_for(lambda: is_enough(known), WITHIN_S), known
            return known

    def finished(self, request_id: str) -> Answer:
        """Return the complete answer."""
        return self.wait(request_id, lambda a: bool(a.finish_reason or a.failure))

    def check(self) -> None:
        """Check that no token came twice, out of order or after the end."""
        assert not self._faults

    def forget(self, request_id: str) -> None:
        """Expect a new request with this id."""
        with self._changed:
            del self._answers[request_id]

    def has_ended(self, request_id: str) -> bool:
        """Return True if the end was reported, a good or a bad one."""
        with self._changed:
            answer = self._answers.get(request_id, Answer())
            return bool(answer.finish_reason or answer.failure)

    def seen(self, request_id: str) -> list[int]:
        """Return the tokens so far."""
        with self._changed:
            return list(self._answers.get(request_id, Answer()).tokens)


def in_engine(worker: Worker, function: Callable[[], T]) -> T:
    """Run `function` in the engine's thread, after all earlier messages; return its result."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    worker._loop.post(run)
    return future.result(WITHIN_S)


def load_now(worker: Worker) -> WorkerLoad:
    """Return the current load and counters, not those of the last step."""
    return in_engine(worker, worker._engine.load)


def held(worker: Worker) -> int:
    """Return the number of blocks that the worker holds."""
    load = load_now(worker)
    return load.blocks_total - load.blocks_free


@contextmanager
def an_hour_later() -> Iterator[None]:
    """Move the engines' clock an hour forward, so that deadlines pass when a test wants it."""
    now_s = time.monotonic
    with patch("time.monotonic", lambda: now_s() + 3600.0):
        yield


def expect_short_answers(decode: WorkerShell[DecodeEngine]) -> None:
    """Teach the scheduler short answers; otherwise it admits only what fits to the end."""
    lengths = decode._engine._scheduler.admission._lengths

    def teach() -> None:
        for power in range(14):
            for _ in range(20):
                lengths.observe(2**power, 1)

    in_engine(decode, teach)


def until(is_true: Callable[[], bool], what: str) -> None:
    """Wait until `is_true`, by round trips to an engine's thread; fails after WITHIN_S."""
    deadline = time.monotonic() + WITHIN_S
    while not is_true():
        assert time.monotonic() < deadline, f"still not {what}"


class Workers:
    """Context manager of one decode worker and, unless `sources` differs, one prefill worker."""

    def __init__(
        self,
        model_dir: Path,
        *,
        prefill_config: EngineConfig | None = None,
        decode_config: EngineConfig | None = None,
        transfer: TransferConfig | None = None,
        wrap: Callable[[KVSource], KVSource] = lambda source: source,
        store: NodeStore = UNLIMITED,
        change: Callable[[Engine], Engine] = lambda engine: engine,
    ) -> None:
        """Build the workers; `change` is applied to both engines before they start."""
        self.crashes: list[BaseException] = []
        self.answers = Answers()
        transfer = transfer or TransferConfig()
        prefilling, decoding = prefill_config or engine_config(), decode_config or engine_config()
        specs = (
            worker_spec(PREFILL, "prefill", model_dir, prefilling, transfer),
            worker_spec("decode-0", "decode", model_dir, decoding, transfer),
        )
        hosts = [build_host(spec, self.crashes.append, store) for spec in specs]
        hosts = [replace(host, engine=change(host.engine)) for host in hosts]
        prefill = make_prefill_worker(specs[0], hosts[0])
        self.prefill, self.source = prefill.shell, prefill.source
        transport = InProcessTransport({PREFILL: wrap(self.source)})
        self.decode = make_decode_worker(specs[1], hosts[1], transport)
        self.decode.subscribe(self.answers.take)

    def __enter__(self) -> Self:
        self.prefill.start()
        self.decode.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in (self.decode, self.prefill):
            worker.stop(WITHIN_S)

    def submit(
        self,
        request_id: str,
        prompt: list[int],
        sampling: SamplingParams,
        *,
        attempt: int = 0,
        prefill: str | None = PREFILL,
        timeout_s: float | None = None,
        salt: str = "",
    ) -> None:
        """Hand a request to the decode worker, as a router would."""
        self.decode.submit(
            WorkRequest(request_id, attempt, tuple(prompt), sampling, prefill, timeout_s, salt)
        )

    def check_at_rest(self) -> None:
        """Check that both sides hold no blocks, owe nothing and are consistent."""
        until(lambda: held(self.decode) + held(self.prefill) == 0, "free of blocks")
        for worker in (self.prefill, self.decode):
            load = load_now(worker)
            assert (load.num_running, load.num_waiting, load.num_waiting_tokens) == (0, 0, 0)
            in_engine(worker, worker._engine.check_integrity)
        assert not self.crashes
        self.answers.check()
