"""A decode worker's engine. All of it runs in the engine's thread.

1. `submit` makes a request live and queues it (`DecodeAdmission.add`), with a grammar once that is compiled.
2. `step` lets pulls enter while there is room (`DecodeScheduler.next_pull`) and opens them (`Inbox.start`).
3. It takes in what arrived (`Inbox.collect`): token 1 is published at once; with all its KV a sequence joins
   the batch (`DecodeScheduler.join`). What a lost pull left is computed here.
4. `DecodeScheduler.schedule` gives growing sequences their blocks, lets local prompts enter and makes the
   batch. Under pressure it preempts: the sequence waits again, its KV swapped out or to be recomputed.
5. `Lookahead.run` launches the batch and returns the steps that landed; `_apply` appends their tokens.
6. `_end` frees the blocks and leaves every queue: after the last token, a cancel, a failure, a deadline
   (`LiveSequences.expired`) or a newer attempt.
"""

import time
from collections.abc import Callable
from functools import partial

from common.engine.build import Engine
from common.engine.faults import FINAL, UNTRUSTED, sample_fault, step_fault
from common.engine.model_runner import Landed
from common.engine.sampling.grammars import Grammars
from common.engine.sampling.sampler import Sample
from common.engine.sequence import Sequence
from common.ledger import BlockLedger
from common.messages import SequenceOutput, StepOutput, TokenLogprobs, WorkerLoad, WorkFailure
from common.telemetry.logs import get_logger
from common.timings import DecodeStepTiming
from common.worker.block_ledger import make_ledger
from common.worker.counters import Counters
from decode_worker.inbox import Collected, Inbox
from decode_worker.live_sequences import LiveSequences
from decode_worker.lookahead import Lookahead
from decode_worker.reports import holder_state, load_report, note_handoff, token_output
from decode_worker.scheduler import DecodeScheduler
from pdserve.errors import Reason

_log = get_logger()


class DecodeEngine:
    """Owns the live sequences: those between `submit` and `_end`."""

    def __init__(
        self,
        engine: Engine,
        scheduler: DecodeScheduler,
        inbox: Inbox,
        grammars: Grammars,
        counters: Counters,
        publish: Callable[[StepOutput], None],
    ) -> None:
        self._engine = engine
        self._prefix = engine.prefix
        self._scheduler = scheduler
        self._lookahead = Lookahead(engine.runner)
        self._inbox = inbox
        self._grammars = grammars
        self._counters = counters
        self._publish = publish
        self._live = LiveSequences()
        self._outputs: list[SequenceOutput] = []
        self._is_retired = False

    def submit(self, seq: Sequence) -> None:
        """Make a request live, or fail it at once. A newer attempt replaces an older one."""
        request = seq.request
        if self._is_retired:  # sent by a router that does not know yet
            failure = WorkFailure(Reason.WORKER_LOST, "the worker is no decode worker any more")
            self._publish(StepOutput((SequenceOutput(seq.request_id, 0, failure=failure),)))
            return
        known = self._live.get(request.request_id)
        if known is not None:
            if known.request.attempt >= request.attempt:
                return
            self._end(known)
        self._live.add(seq)
        num_tokens = seq.num_prompt_tokens + request.sampling.max_tokens
        if not self._scheduler.admission.can_ever_run(num_tokens):
            message = f"{num_tokens} tokens exceed the {self._engine.pool.num_blocks} KV blocks"
            self._fail(seq, Reason.KV_CAPACITY_EXCEEDED, message)
        elif request.sampling.grammar is not None:
            self._grammars.prepare(seq, request.sampling.grammar)
        else:
            self._scheduler.admission.add(seq)

    def cancel(self, request_id: str) -> None:
        """End a request and publish nothing; ignore unknown ids."""
        seq = self._live.get(request_id)
        if seq is not None:
            self._end(seq)

    def retire(self) -> None:
        """Fail all requests, and those that still come."""
        self._is_retired = True
        for seq in self._live:
            self._fail(seq, Reason.WORKER_LOST, "the worker takes another role")
        self.step()  # which lands the step in flight and publishes the ends

    def step(self) -> bool:
        """Take in, schedule, run, apply, publish; return False when there was nothing to do."""
        self._expire()
        self._take_prepared()
        self._start_pulls()
        has_news = self._inbox.has_news
        self._apply(self._lookahead.settle(self._scheduler, has_news=has_news))
        if has_news:
            self._take_in(self._inbox.collect())
        batch = self._scheduler.schedule(self._inbox.pulls.keys())
        if batch is not None and self._outputs:
            # token 1 of a pulled prompt leaves before the step, not behind it
            self._publish(StepOutput(self._take_outputs()))
        landed = self._lookahead.run(batch)
        self._apply(landed)
        if batch is None and not (landed or has_news or self._outputs):
            return False
        self._publish(StepOutput(self._take_outputs(), self.load()))
        return True

    def load(self) -> WorkerLoad:
        """Return load and counters now."""
        return load_report(self._engine, self._counters, self._scheduler, self._inbox)

    def check_integrity(self) -> None:
        """Raise AssertionError where a block or slot is held by no live sequence."""
        self._prefix.check_integrity(self._live)

    def ledger(self, request_id: str) -> BlockLedger:
        """Return which requests hold which blocks: all of them, or those of one request or group."""
        state = partial(holder_state, scheduler=self._scheduler, inbox=self._inbox)
        host_bytes = self._scheduler.preemption.num_host_bytes
        return make_ledger(self._engine.pool, tuple(self._live), state, host_bytes, request_id)

    def close(self) -> None:
        """Stop pulling and compiling."""
        self._inbox.close()
        self._grammars.close()

    def _take_outputs(self) -> tuple[SequenceOutput, ...]:
        outputs, self._outputs = tuple(self._outputs), []
        return outputs

    def _expire(self) -> None:
        for seq in self._live.expired(time.monotonic()):
            self._fail(seq, Reason.DEADLINE_EXCEEDED, "the client's deadline passed")

    def _take_prepared(self) -> None:
        for seq, error in self._grammars.collect():
            if self._live.get(seq.request_id) is not seq:
                continue  # ended meanwhile
            if error is not None:
                self._fail(seq, Reason.GRAMMAR_FAILED, str(error))
            else:
                self._scheduler.admission.add(seq)

    def _start_pulls(self) -> None:
        arriving = self._inbox.pulls.keys()
        while (seq := self._scheduler.next_pull(arriving)) is not None:
            self._inbox.start(seq)

    def _take_in(self, collected: Collected) -> None:
        self._counters.kv_bytes += collected.num_bytes
        self._counters.kv_rejected += collected.num_rejected
        for seq, header in collected.first_tokens:
            scores = TokenLogprobs(*header.logprobs) if header.logprobs else None
            self._emit(seq, Sample(header.token_id, logprobs=scores))
        for seq, failure in collected.failures:
            if failure.reason not in FINAL:
                collected.orphaned.append((seq, f"{failure.reason}: {failure.message}"))
            elif not seq.is_finished:
                self._fail(seq, Reason.parse(failure.reason), failure.message)
        # token 1 may have been the last, so that some of these have ended just above
        ready = [seq for seq in collected.ready if not seq.is_finished]
        for seq, error in collected.orphaned:
            if not seq.is_finished:
                _log.warning("kv_lost", request_id=seq.request_id, error=error)
                self._counters.prefill_fallbacks += 1
                ready.append(seq)
        for seq in ready:
            if seq.needs_prompt_logits:
                self._start_over(seq)
            else:
                self._scheduler.join(seq)

    def _start_over(self, seq: Sequence) -> None:
        """Run the whole prompt here, in blocks that nobody else can have found."""
        self._prefix.release(seq)
        seq.num_computed_tokens = 0
        self._scheduler.admission.add_local(seq)

    def _apply(self, landed: list[Landed]) -> None:
        """Take the results of steps in: tokens, timings, failures."""
        for step in landed:
            if step.error is None:
                self._apply_step(step)
            elif not (seq := step.batch.entries[0].seq).is_finished:  # by the step before
                fault = step_fault(step.error)
                self._fail(seq, fault.reason, fault.message)

    def _apply_step(self, landed: Landed) -> None:
        batch, start_s, end_s = landed.batch, landed.start_s, landed.end_s
        block_size = self._engine.pool.block_size
        self._counters.steps += 1
        self._engine.costs.note_step(batch, end_s - start_s)
        step = DecodeStepTiming(start_s, end_s - start_s, len(batch.entries), batch.num_tokens)
        for entry, sample in zip(batch.entries, landed.samples, strict=True):
            seq = entry.seq
            if not seq.block_table:  # ended while the step ran
                continue
            timeline = seq.timeline
            if entry.num_prompt_tokens:
                timeline.record_chunk(start_s, end_s, entry.num_tokens)
                self._counters.note_prefill(entry)
            else:
                timeline.steps.add(step)
                if timeline.joined_decode_s is None:
                    timeline.joined_decode_s = start_s
                    note_handoff(self._engine.costs, seq, len(batch.entries) - 1)
            if entry.end % block_size < entry.num_tokens:  # a block became whole
                self._prefix.publish(seq, entry.end)
            if sample is not None:
                self._counters.output_tokens += 1
                self._emit(seq, sample)

    def _emit(self, seq: Sequence, sample: Sample) -> None:
        """Append a token and publish it; end the sequence if it was the last."""
        if (fault := sample_fault(seq, sample)) is not None:
            self._fail(seq, fault.reason, fault.message)
            return
        seq.append(sample.token_id, self._engine.spec.eos_token_ids)
        self._outputs.append(token_output(seq, sample))
        if seq.finish_reason is not None:
            self._end(seq)

    def _fail(self, seq: Sequence, reason: Reason, message: str) -> None:
        if reason in UNTRUSTED:
            self._prefix.forget(seq)
        seq.failure = WorkFailure(reason, message)
        self._outputs.append(
            SequenceOutput(seq.request_id, seq.num_output_tokens, failure=seq.failure)
        )
        self._end(seq)

    def _end(self, seq: Sequence) -> None:
        """End a sequence, here and nowhere else: out of every queue, stream closed, blocks released."""
        self._live.remove(seq)
        self._inbox.discard(seq)
        self._scheduler.remove(seq)
        self._prefix.release(seq)
