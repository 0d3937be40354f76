"""Isolation of requests that make a step raise: they end, and no others. Both roles' engines use it.

1. A step raises. Nothing of it counts: no token, matcher or counter has moved. KV that it stored lies behind
   `num_computed_tokens`, where the next run stores it again.
2. `rerun` halves the batch, runs the halves, and halves again those that raise, down to single requests.
   Those are at fault; one that was alone from the start is run once more. All others have run, in parts, with
   the tokens that they get in any batch.
3. The engine takes the parts in, ends the culprits with STEP_FAILED, forgets their blocks, and goes on.

Where the engine itself is at fault, every request would fail for ever: the exception goes on, and the worker
ends with it (common/worker/loop.py). A test decides, not the type of the exception. The engine is at fault if

a. no request of the batch ran, nor did then one harmless token (a lost device, an invariant that broke); or
b. MAX_IN_A_ROW requests have failed and no step has run in between.

So neither one bad request nor several at once take a worker down. A worker that can do no work does not stay
and fail every request. The death of the process (an abort, the kernel when memory runs out) is not seen here.
"""

import time
import traceback

from common.engine.batch import Batch, BatchEntry
from common.engine.model_runner import Landed, Launched, ModelRunner
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.messages import SamplingParams, WorkRequest
from common.telemetry.logs import get_logger

MAX_IN_A_ROW = 16
_HARMLESS = WorkRequest("harmless", 0, (0,), SamplingParams(temperature=0, seed=0, max_tokens=1))
_log = get_logger()


class Isolation:
    """Owner of the count of failures in a row. Engine thread only."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._num_in_a_row = 0

    def run(self, batch: Batch) -> list[Landed]:
        """Run a step and wait for it; several where some of its requests make it raise.

        Raises the step's own error where the engine is at fault.
        """
        start_s = time.monotonic()
        try:
            samples = self._runner.run(batch)
        except BaseException as caught:  # panics of native code are no Exceptions
            error = caught
        else:
            self.note_ran()
            return [Landed(batch, samples, start_s, time.monotonic())]
        return self.rerun(batch, error)

    def rerun(
        self, batch: Batch, error: BaseException, previous: Launched | None = None
    ) -> list[Landed]:
        """Do as `run` for a step that raised `error` when it was launched behind `previous`."""
        _let_go(error)
        is_alone = len(batch.entries) == 1
        landed = self._try(batch, previous) if is_alone else self._split(batch, error, previous)
        self._judge(landed)
        return landed

    def note_ran(self) -> None:
        """Note that a step has run, elsewhere."""
        self._num_in_a_row = 0

    def _try(self, batch: Batch, previous: Launched | None) -> list[Landed]:
        start_s = time.monotonic()
        try:
            samples = self._runner.launch(batch, previous).result()
        except BaseException as caught:
            error = _let_go(caught)
        else:
            return [Landed(batch, samples, start_s, time.monotonic())]
        return self._split(batch, error, previous)

    def _split(self, batch: Batch, error: BaseException, previous: Launched | None) -> list[Landed]:
        entries, half = batch.entries, len(batch.entries) // 2
        if not half:
            now_s = time.monotonic()
            return [Landed(batch, [None], now_s, now_s, error)]
        parts = Batch(entries[:half]), Batch(entries[half:])
        return [landed for part in parts for landed in self._try(part, previous)]

    def _judge(self, landed: list[Landed]) -> None:
        """Raise the first error where the engine is at fault, by the rule of this module."""
        failed = [(one, one.error) for one in landed if one.error is not None]
        if len(failed) < len(landed):
            self._num_in_a_row = 0
        self._num_in_a_row += len(failed)
        for one, error in failed:
            (entry,) = one.batch.entries
            _log.error("step_failed", request_id=entry.seq.request_id, exc_info=error)
        if not failed:
            return
        first, error = failed[0]
        if len(failed) == len(landed) and not self._is_sound(first.batch.entries[0]):
            raise error
        if self._num_in_a_row >= MAX_IN_A_ROW:
            raise error

    def _is_sound(self, entry: BatchEntry) -> bool:
        """Return True if one harmless token runs, in a block that this entry's sequence is about to lose.

        The last block is nobody else's and has no key yet: it holds positions that are not computed.
        """
        seq = Sequence(_HARMLESS, Timeline(arrival_s=0.0))
        seq.block_table = entry.seq.block_table[-1:]
        try:
            self._runner.run(Batch((BatchEntry(seq, 1),)))
        except BaseException as error:
            _log.error("harmless_step_failed", exc_info=error)
            return False
        return True


def _let_go(error: BaseException) -> BaseException:
    """Return the error without its frames' variables, which may hold the very memory that was missing."""
    traceback.clear_frames(error.__traceback__)
    return error
