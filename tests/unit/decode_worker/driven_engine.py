"""A decode engine without thread, transport or router, stepped by a test."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

from common.config import TransferConfig
from common.engine.build import Engine
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.host_swap import HostSwap
from common.engine.memory.kv_cache import kv_layout
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs, within_limits
from common.engine.sampling.grammars import Grammars
from common.engine.sequence import Sequence
from common.kv_transfer.in_process import InProcessTransport
from common.kv_transfer.node_store import UNLIMITED
from common.messages import FinishReason, SamplingParams, StepOutput, WorkFailure, WorkRequest
from common.profile import WorkerProfile
from common.worker.counters import Counters
from decode_worker.admission import DecodeAdmission
from decode_worker.engine import DecodeEngine
from decode_worker.inbox import Inbox
from decode_worker.output_length import OutputLengths
from decode_worker.preemption import Mode, Preemption
from decode_worker.pull_credit import PullCredit
from decode_worker.scheduler import DecodeScheduler
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model

EOS = (11, 60)
_CONFIG = engine_config(num_blocks=64, max_batch_tokens=24, max_num_seqs=6)


@cache
def tiny_engine() -> Engine:
    """Build a model that ends its answers by `EOS` now and then; all share its memory, not its blocks."""
    folder = Path(tempfile.mkdtemp(prefix="pdserve-test-"))
    return make_engine(save_model(folder, "llama", eos_token_id=list(EOS)), _CONFIG)


@dataclass
class Said:
    """Outputs that were published of one request."""

    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    failure: WorkFailure | None = None

    @property
    def has_ended(self) -> bool:
        return self.finish_reason is not None or self.failure is not None


class DrivenEngine:
    """A decode engine, with another runner by `change`. Few blocks and low expectations cause preemptions."""

    def __init__(
        self,
        change: Callable[[Engine], Engine] = lambda engine: engine,
        num_blocks: int = 64,
        prior_tokens: int = 40,
        preemption: Mode = "recompute",
        engine: Engine | None = None,
    ) -> None:
        engine = engine or tiny_engine()
        prefix = PrefixCache(BlockPool(num_blocks, engine.pool.block_size), engine.spec.fingerprint)
        costs = Costs(within_limits(WorkerProfile(), engine.limits))
        self.engine = change(replace(engine, prefix=prefix, costs=costs))
        memory = HostSwap(engine.cache, prefix, 2**20, costs)
        choice = Preemption(preemption, costs, memory)
        layout, transfer = kv_layout(engine.spec), TransferConfig()
        credit = PullCredit(transfer, layout, UNLIMITED)
        admission = DecodeAdmission(
            prefix, OutputLengths(prior_tokens), costs, credit, watermark=0.0
        )
        self.scheduler = DecodeScheduler(prefix, admission, choice, costs)
        inbox = Inbox(
            prefix,
            engine.cache,
            costs,
            layout,
            InProcessTransport({}),
            transfer,
            lambda: None,
            credit,
        )
        self.counters = Counters()
        grammars = Grammars(Path("."), engine.spec, lambda: None)
        grammars.close()
        self.decode = DecodeEngine(
            self.engine, self.scheduler, inbox, grammars, self.counters, self._take
        )
        self._now_s = 0.0
        self.said: dict[tuple[str, int], Said] = {}
        self.live: dict[str, Sequence] = {}

    def submit(
        self,
        name: str,
        prompt: list[int],
        sampling: SamplingParams,
        attempt: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        """Submit a request; a new attempt replaces the one before. A step takes a second of `timeout_s`."""
        request = WorkRequest(name, attempt, tuple(prompt), sampling, timeout_s=timeout_s)
        seq = self.engine.prefix.new_sequence(request, self._now_s)
        self.said[name, attempt] = Said()
        self.live[name] = seq
        self.decode.submit(seq)

    def cancel(self, name: str) -> None:
        """Cancel a live request."""
        del self.live[name]
        self.decode.cancel(name)

    def step(self) -> bool:
        """Run one step; check that no block is held without an owner."""
        self._now_s += 1.0
        with patch("time.monotonic", lambda: self._now_s):
            worked = self.decode.step()
        self.decode.check_integrity()
        return worked

    def finish(self) -> None:
        """Step until there is nothing to do."""
        for _ in range(2000):
            if not self.step():
                break
        assert not self.live
        self.engine.pool.check_integrity([])
        assert self.engine.pool.num_held == 0

    def _take(self, output: StepOutput) -> None:
        for news in output.sequences:
            seq = self.live[news.request_id]  # of one that was cancelled or has ended comes nothing
            said = self.said[news.request_id, seq.request.attempt]
            assert news.index == len(said.tokens)
            said.tokens += news.token_ids
            said.finish_reason, said.failure = news.finish_reason, news.failure
            if said.has_ended:
                del self.live[news.request_id]
