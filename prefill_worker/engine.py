"""A prefill worker's engine. All of it runs in the engine's thread.

1. `accept` makes a prompt live and queues it (`PrefillScheduler.add`), with a grammar once that is compiled.
2. `step` takes the next chunks (`PrefillScheduler.schedule`, which reserves the blocks of whole prompts) and
   runs them (`Isolation.run`).
3. `_apply` sends token 1 of prompts that are complete, then copies the chunks out (`CopyOut.send`).
4. `_drop` frees a prompt's blocks and ends its outbox: behind its last copy, never waiting for decode; or at
   a failure, a cancel, or a newer run of the same request and attempt.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from common.engine.build import Engine
from common.engine.faults import UNTRUSTED, sample_fault, step_fault
from common.engine.isolation import Isolation
from common.engine.model_runner import Landed
from common.engine.sampling.grammars import Grammars
from common.engine.sampling.sampler import Sample
from common.engine.sequence import Sequence
from common.kv_transfer.wire import make_failure
from common.ledger import BlockLedger
from common.messages import StepOutput, WorkerLoad, WorkFailure
from common.worker.block_ledger import make_ledger
from common.worker.counters import Counters, Holders
from pdserve.errors import Reason
from prefill_worker.copy_out import CopyOut
from prefill_worker.first_token import first_token_item
from prefill_worker.outbox import KVOutbox
from prefill_worker.scheduler import PrefillScheduler

Key = tuple[str, int]  # request id, attempt
_MAX_REMEMBERED = 4096
T = TypeVar("T")


@dataclass(slots=True)
class _Prompt:
    """One live prompt. `num_sent` counts the positions that decode holds or that are in the outbox."""

    seq: Sequence
    outbox: KVOutbox
    num_sent: int


class PrefillEngine:
    """Owns the live prompts: those between `accept` and `_drop`."""

    def __init__(
        self,
        engine: Engine,
        scheduler: PrefillScheduler,
        grammars: Grammars,
        counters: Counters,
        publish: Callable[[StepOutput], None],
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._grammars = grammars
        self._counters = counters
        self._publish = publish
        self._copies = CopyOut(engine)
        self._isolation = Isolation(engine.runner)
        self._live: dict[Key, _Prompt] = {}
        # Cancels that overtook their request, and ended prompts, whose readers may still cancel them
        # (a request's id may come again). The oldest are forgotten.
        self._tombstones: OrderedDict[Key, None] = OrderedDict()
        self._ended: OrderedDict[Key, KVOutbox] = OrderedDict()
        self._is_retired = False

    def accept(self, seq: Sequence, outbox: KVOutbox) -> None:
        """Make a prompt live, or answer at once with a failure. A run of the same key is dropped."""
        request, key = seq.request, _key(seq)
        if self._is_retired:  # asked by a decode worker whose router did not know yet
            outbox.put(make_failure(*key, Reason.WORKER_LOST, "no prefill worker any more"))
            outbox.finish()
            return
        self._drop(key)
        self._live[key] = _Prompt(seq, outbox, request.num_held_tokens)
        self._ended.pop(key, None)
        if key in self._tombstones:
            del self._tombstones[key]
            self._drop(key)
        elif not self._scheduler.can_ever_run(seq.num_given_tokens):
            self._fail(seq, Reason.KV_CAPACITY_EXCEEDED, "prompt exceeds KV memory")
        elif request.sampling.grammar is not None:
            self._grammars.prepare(seq, request.sampling.grammar)
        else:
            self._scheduler.add(seq)

    def cancel(self, key: Key) -> None:
        """Drop a prompt; refuse it later if it has not come yet."""
        if key in self._live:
            self._live[key].outbox.discard()
            self._drop(key)
        elif key in self._ended:
            self._ended[key].discard()  # its stream may still wait for room
        else:
            _remember(self._tombstones, key, None)

    def retire(self) -> None:
        """Fail all prompts, and those that still come; the decode workers that want them run the rest.

        Streams whose prompt has run continue to their end: their items were copied out of the blocks.
        """
        self._is_retired = True
        for prompt in list(self._live.values()):
            self._fail(prompt.seq, Reason.WORKER_LOST, "the worker takes another role")

    def step(self) -> bool:
        """Schedule, run, hand out, publish the load; return False when there was nothing to run."""
        self._expire()
        self._take_prepared()
        batch = self._scheduler.schedule(time.monotonic())
        if batch is None:
            return False
        for step in self._isolation.run(batch):
            if step.error is None:
                self._apply(step)
            else:
                fault = step_fault(step.error)
                self._fail(step.batch.entries[0].seq, fault.reason, fault.message)
        self._publish(StepOutput(load=self.load()))
        return True

    def load(self) -> WorkerLoad:
        """Return load and counters now."""
        scheduler = self._scheduler
        self._counters.causes.look(self._holders)
        backlog_tokens = scheduler.num_waiting_tokens
        return self._counters.to_load(
            self._engine,
            len(scheduler.running),
            len(scheduler.waiting),
            backlog_tokens,
            backlog_tokens,
        )

    def _holders(self) -> Holders:
        """Yield the prompts that hold blocks, each with the cause."""
        for prompt in self._live.values():
            yield self._scheduler.holder_state(prompt.seq), prompt.seq

    def ledger(self, request_id: str) -> BlockLedger:
        """Return which prompts hold which blocks: all of them, or those of one request or group."""
        live = [prompt.seq for prompt in self._live.values()]
        return make_ledger(
            self._engine.pool, live, self._scheduler.holder_state, lambda _: 0, request_id
        )

    def close(self) -> None:
        """Stop the threads that compile grammars and copy chunks."""
        self._grammars.close()
        self._copies.close()

    def check_integrity(self) -> None:
        """Raise AssertionError where a block or slot is held by no live prompt."""
        self._engine.prefix.check_integrity(prompt.seq for prompt in self._live.values())

    def _expire(self) -> None:
        now_s = time.monotonic()
        for seq in [s for s in self._scheduler.waiting if s.is_expired(now_s)]:
            self._fail(seq, Reason.DEADLINE_EXCEEDED, "deadline passed before prefill began")

    def _take_prepared(self) -> None:
        for seq, error in self._grammars.collect():
            prompt = self._live.get(_key(seq))
            if prompt is None or prompt.seq is not seq:
                continue  # ended meanwhile
            if error is not None:
                self._fail(seq, Reason.GRAMMAR_FAILED, str(error))
            else:
                self._scheduler.add(seq)

    def _apply(self, landed: Landed) -> None:
        batch, samples = landed.batch, landed.samples
        start_s, end_s = landed.start_s, landed.end_s
        self._engine.costs.note_step(batch, end_s - start_s)
        self._counters.steps += 1
        for entry in batch.entries:
            entry.seq.num_computed_tokens += entry.num_tokens
            entry.seq.timeline.record_chunk(start_s, end_s, entry.num_tokens)
            self._counters.note_prefill(entry)
            self._engine.prefix.publish(entry.seq)
        # First tokens leave before any KV is copied: they are what clients wait for.
        for entry, sample in zip(batch.entries, samples, strict=True):
            if sample is not None:
                self._send_first_token(entry.seq, sample)
        for entry in batch.entries:
            if not entry.seq.is_finished:
                self._copy_out(self._live[_key(entry.seq)])
        for entry, sample in zip(batch.entries, samples, strict=True):
            if sample is not None:
                self._drop(_key(entry.seq))

    def _send_first_token(self, seq: Sequence, sample: Sample) -> None:
        if (fault := sample_fault(seq, sample)) is not None:
            self._fail(seq, fault.reason, fault.message)
            return
        self._counters.output_tokens += 1
        self._live[_key(seq)].outbox.put(first_token_item(seq, sample))
        # A sequence that ends with token 1 needs no KV on decode.
        seq.append(sample.token_id, self._engine.spec.eos_token_ids)

    def _copy_out(self, prompt: _Prompt) -> None:
        """Send the KV that decode lacks, in pieces of at most a step's size and decode's own limit.

        The state follows, where the model has one.
        """
        seq, size = prompt.seq, self._engine.limits.max_batch_tokens
        size = min(size, seq.request.max_item_tokens or size)
        while prompt.num_sent < seq.num_computed_tokens:
            start, end = prompt.num_sent, min(prompt.num_sent + size, seq.num_computed_tokens)
            self._counters.kv_bytes += self._copies.send(seq, prompt.outbox, start, end)
            prompt.num_sent = end
        if seq.num_computed_tokens == seq.num_given_tokens:
            self._counters.kv_bytes += self._copies.send_state(seq, prompt.outbox, size)

    def _fail(self, seq: Sequence, reason: Reason, message: str) -> None:
        key = _key(seq)
        if reason in UNTRUSTED:
            self._engine.prefix.forget(seq)
        seq.failure = WorkFailure(reason, message)
        self._live[key].outbox.put(make_failure(*key, reason, message))
        self._drop(key)

    def _drop(self, key: Key) -> None:
        """End a prompt, here and nowhere else: blocks released, stream ended. Safe to repeat."""
        prompt = self._live.pop(key, None)
        if prompt is not None:
            self._scheduler.remove(prompt.seq)
            self._copies.finish(prompt.outbox)
            _remember(self._ended, key, prompt.outbox)


def _remember(keys: OrderedDict[Key, T], key: Key, value: T) -> None:
    keys[key] = value
    if len(keys) > _MAX_REMEMBERED:
        keys.popitem(last=False)


def _key(seq: Sequence) -> Key:
    return (seq.request_id, seq.request.attempt)
