"""Scheduling one step ahead of the tokens: the host prepares step n + 1 while the device runs step n.

1. `run` launches step n + 1 behind step n, which may still run. A sequence that step n samples for continues
   in step n + 1 with a token that only the device knows; ModelRunner carries it over there.
2. Then `run` waits for step n. The engine publishes its tokens while step n + 1 runs.
3. A sequence that ended with step n (last token, cancel, deadline, failure) runs one token too many in step
   n + 1. The engine ignores that token: it is in no output, no counter and no prefix key. Step n + 1 may
   write to blocks that are free already; all access to blocks is on one stream, so a new owner comes later.
4. A step lands at once where the host has its tokens anyway: on a CPU, and where the choice of a token needs
   the tokens before it or reports more than itself (not `is_memoryless`).
5. `settle` lands the step in flight before arrived KV is copied in, which would wait for that step and be
   measured as long; and before a preemption, which depends on all tokens (`DecodeScheduler.can_grow`).
6. A step that raises is run again in parts, and lands at once (isolation.py). If the launch of step n + 1
   raised, that step runs again behind step n. If the wait for step n raised, step n does, and step n + 1
   counts as never launched. The length limit wastes no token (`Sequence.runs_ahead`).
"""

import time
from dataclasses import dataclass

from common.engine.batch import Batch
from common.engine.isolation import Isolation
from common.engine.model_runner import Landed, Launched, ModelRunner
from common.telemetry.logs import get_logger
from decode_worker.scheduler import DecodeScheduler

_log = get_logger()


@dataclass(frozen=True, slots=True)
class _Raised:
    batch: Batch
    error: BaseException


class Lookahead:
    """Owns the step in flight. For the engine's thread only."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._isolation = Isolation(runner)
        self._in_flight: Launched | None = None
        self._launched_s = 0.0
        self._landed_s = 0.0

    @property
    def is_flying(self) -> bool:
        """True while there are tokens that only the device knows."""
        return self._in_flight is not None

    def settle(self, scheduler: DecodeScheduler, *, has_news: bool) -> list[Landed]:
        """Land the step in flight, if what comes next needs its tokens; return the steps that landed.

        `has_news` says that KV has arrived. Raises what a step raised where the engine is at fault.
        """
        if self.is_flying and (has_news or not scheduler.can_grow()):
            return self.run(None)
        return []

    def run(self, batch: Batch | None) -> list[Landed]:
        """Launch `batch`, if there is one, and return the steps that landed, in order.

        Tokens of the batch count as computed at once, since whatever reads their KV is queued behind it.
        The caller ignores entries whose sequence holds no blocks: it ended while the step ran.
        Raises what a step raised where the engine is at fault.
        """
        previous, previous_s = self._in_flight, self._launched_s
        self._in_flight = None
        launched = self._launch(batch, previous) if batch is not None else None
        landed = []
        if previous is not None:
            try:
                landed.append(self._land(previous, previous_s))
            except BaseException as lost:
                return self._begin_again(previous.batch, batch, lost)
        if isinstance(launched, _Raised):
            rerun = self._isolation.rerun(launched.batch, launched.error, previous)
            landed += self._take_in(rerun)
        elif launched is not None and launched.tokens is None:
            landed.append(self._land(launched, self._launched_s))
        else:
            self._in_flight = launched
        return landed

    def _launch(self, batch: Batch, previous: Launched | None) -> Launched | _Raised:
        """Return the step that was queued, or the error that it raised instead."""
        self._launched_s = time.monotonic()
        try:
            launched = self._runner.launch(batch, previous)
        except BaseException as error:  # panics of native code are no Exceptions
            return _Raised(batch, error)
        _count_computed(batch)
        return launched

    def _land(self, launched: Launched, launched_s: float) -> Landed:
        samples = launched.result()
        start_s, self._landed_s = max(launched_s, self._landed_s), time.monotonic()
        self._isolation.note_ran()
        return Landed(launched.batch, samples, start_s, self._landed_s)

    def _begin_again(self, lost: Batch, behind: Batch | None, error: BaseException) -> list[Landed]:
        """Run a step again that did not land; the step behind it got its tokens from it and is void."""
        for entry in (*(behind.entries if behind else ()), *lost.entries):
            entry.seq.num_computed_tokens = entry.start
        live = Batch(tuple(entry for entry in lost.entries if entry.seq.block_table))
        _log.error("step_lost", num_seqs=len(live.entries), exc_info=error)
        # as a whole first: a sequence that has ended meanwhile may have been at fault
        return self._take_in(self._isolation.run(live)) if live.entries else []

    def _take_in(self, landed: list[Landed]) -> list[Landed]:
        for step in landed:
            if step.error is None:
                _count_computed(step.batch)
        self._landed_s = time.monotonic()
        return landed


def _count_computed(batch: Batch) -> None:
    for entry in batch.entries:
        entry.seq.num_computed_tokens = entry.start + entry.num_tokens
