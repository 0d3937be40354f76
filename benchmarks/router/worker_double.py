"""Decode workers without a model, behind the real gRPC service; they answer at a given pace.

Usage: python -m benchmarks.router.worker_double MODEL_DIR; prints the addresses, ends with its input.
A token's id encodes its time: tenths of milliseconds of the monotonic clock, modulo the vocabulary.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.ledger import BlockHolder, BlockLedger, BlockQuestion, HeldBlocks, HolderState
from common.messages import (
    FinishReason,
    Role,
    SequenceOutput,
    StepOutput,
    WorkerInfo,
    WorkerLoad,
    WorkRequest,
)
from common.prefix_log import PrefixLog
from common.rpc.worker_host import WorkerHost

NUM_WORKERS = 16
TICK_S = 1e-4
STEP_S = 0.0625  # 16 tokens a second and stream: 4,096 of 256 streams
_LOAD = WorkerLoad(blocks_total=2**20, blocks_free=2**20, block_size=16)


def clock_id(vocab_size: int) -> int:
    """Return the token id that encodes the current time."""
    return int(time.monotonic() / TICK_S) % vocab_size


@dataclass(slots=True)
class _Live:
    request: WorkRequest
    num_tokens: int = 0


class WorkerDouble:
    """A WorkerPort that sends each live request a token every STEP_S; with priority 1 only one."""

    def __init__(self, name: str, vocab_size: int, delay_s: float) -> None:
        self.info = WorkerInfo(name, Role.DECODE, 0, name, "double", 8192, vocab_size)
        self.prefixes = PrefixLog(max_changes=1)
        self._delay_s = delay_s
        self._live: dict[str, _Live] = {}
        self._sinks: list[Callable[[StepOutput], None]] = []
        self._lock = threading.Lock()

    def submit(self, request: WorkRequest) -> None:
        """Add a request; it gets its first token at the next step."""
        with self._lock:
            self._live[request.request_id] = _Live(request)

    def cancel(self, request_id: str) -> None:
        """Drop a request, if it is live."""
        with self._lock:
            self._live.pop(request_id, None)

    def load(self) -> WorkerLoad:
        """Return the load of this double."""
        return _LOAD

    def ask_blocks(self, question: BlockQuestion, answer: Callable[[BlockLedger], None]) -> None:
        """Answer with a ledger in which each live request holds a block a 16 tokens."""
        with self._lock:
            holders = tuple(_holder(live) for live in self._live.values())
        num_held = sum(holder.num_blocks for holder in holders)
        held = (HeldBlocks(HolderState.DECODING, len(holders), num_held),)
        num_free = _LOAD.blocks_total - num_held
        answer(BlockLedger(_LOAD.blocks_total, num_free, 0, 0, 16, len(holders), holders, held))

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """Add a sink for the steps; return a function that removes it."""
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink)

    def run(self) -> None:
        """Step for ever."""
        next_s = time.monotonic() + self._delay_s
        while True:
            time.sleep(max(next_s - time.monotonic(), 0))
            next_s += STEP_S
            outputs = self._step()
            if outputs:
                for sink in tuple(self._sinks):
                    sink(StepOutput(outputs))

    def _step(self) -> tuple[SequenceOutput, ...]:
        with self._lock:
            outputs = tuple(self._advance(live) for live in self._live.values() if _is_due(live))
            for output in outputs:
                if output.finish_reason:
                    del self._live[output.request_id]
        return outputs

    def _advance(self, live: _Live) -> SequenceOutput:
        index, sampling = live.num_tokens, live.request.sampling
        live.num_tokens += 1
        reason = FinishReason.LENGTH if live.num_tokens == sampling.max_tokens else None
        token_id = clock_id(self.info.vocab_size)
        return SequenceOutput(live.request.request_id, index, (token_id,), reason)


def _holder(live: _Live) -> BlockHolder:
    num_tokens = len(live.request.prompt_token_ids) + live.num_tokens
    name, num_blocks = live.request.request_id, -(-num_tokens // 16)
    return BlockHolder(name, HolderState.DECODING, num_blocks, 0, num_tokens, num_tokens, 0, 0.0)


def _is_due(live: _Live) -> bool:
    return not (live.num_tokens and live.request.priority)


def main(model_dir: str) -> None:
    """Serve until the input ends."""
    config = json.loads(Path(model_dir, "config.json").read_text())
    for number in range(NUM_WORKERS):
        delay_s = number * STEP_S / NUM_WORKERS
        worker = WorkerDouble(f"decode-{number}", config["vocab_size"], delay_s)
        print(WorkerHost(worker, "127.0.0.1").start(), flush=True)
        threading.Thread(target=worker.run, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
