"""A decode worker that has room for its prompts and not for their answers, so that it must preempt.

1. All prompts enter in one step, each with blocks for itself and for token 1. Then no block is free.
2. Each answer ends in a block that its sequence does not have yet. The first one to end took that block
   from a sequence that ran. Whatever the order and the speed of arrivals, somebody is preempted.
3. Every sequence that runs was handed off, so that a preemption comes behind a hand-off.
"""

from dataclasses import replace
from pathlib import Path
from typing import Self

from common.config import EngineConfig
from common.engine.build import Engine
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.prefix_cache import PrefixCache
from common.kv_transfer.transport import KVTransport
from common.messages import SamplingParams, WorkRequest
from decode_worker.worker import make_decode_worker
from tests.integration.support.in_process_workers import (
    PREFILL,
    Answers,
    expect_short_answers,
    held,
    in_engine,
    until,
)
from tests.integration.support.kv_faults import held_engine
from tests.integration.support.prefill_child import PATIENT, unmeasured_host
from tests.integration.support.worker_spec import worker_spec
from tests.patience import WITHIN_S

NEW_TOKENS = 20  # more than a block has positions
_GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=NEW_TOKENS, ignore_eos=True)


class TightDecode:
    """Context manager of a decode worker that pulls `prompts`, all of them at once."""

    def __init__(
        self,
        model_dir: Path,
        config: EngineConfig,
        prompts: list[list[int]],
        transport: KVTransport,
    ) -> None:
        self._prompts = prompts
        self._crashes: list[BaseException] = []
        self._answers = Answers()
        spec = worker_spec("decode-0", "decode", model_dir, config, PATIENT)
        host = unmeasured_host(spec, self._crashes.append)
        self.engine = _with_room_for(prompts, host.engine)
        self.worker = make_decode_worker(spec, replace(host, engine=self.engine), transport)
        self.worker.subscribe(self._answers.take)

    def __enter__(self) -> Self:
        self.worker.start()
        expect_short_answers(self.worker)
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop(WITHIN_S)

    def answer_all(self, tag: str) -> list[list[int]]:
        """Return the greedy answers to all prompts."""
        names = [f"{tag}-{number}" for number in range(len(self._prompts))]
        with held_engine(self.worker):
            for name, prompt in zip(names, self._prompts, strict=True):
                self.worker.submit(WorkRequest(name, 0, tuple(prompt), _GREEDY, PREFILL))
        return [self._answers.finished(name).tokens for name in names]

    def check_at_rest(self) -> None:
        """Check that no block is held, that all is consistent, and that no token came twice."""
        until(lambda: held(self.worker) == 0, "free of blocks")
        in_engine(self.worker, self.worker._engine.check_integrity)
        assert not self._crashes
        self._answers.check()


def _with_room_for(prompts: list[list[int]], engine: Engine) -> Engine:
    """Leave the engine blocks for prompts with one token more, and nothing to find a prefix by."""
    size = engine.pool.block_size
    ends = [(len(prompt) + 1, len(prompt) + NEW_TOKENS - 1) for prompt in prompts]
    assert all(-(-entry // size) < -(-end // size) for entry, end in ends)
    num_blocks = sum(-(-entry // size) for entry, _ in ends)
    assert num_blocks <= engine.pool.num_blocks
    prefix = PrefixCache(
        BlockPool(num_blocks, size),
        engine.spec.fingerprint,
        is_enabled=False,
        slots=engine.prefix.slots,
    )
    return replace(engine, prefix=prefix)
