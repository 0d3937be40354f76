"""One step ahead of the tokens: the host schedules step n + 1 while the device runs step n.

1. `run` launches step n + 1 behind step n, which may still run. A sequence that step n samples for goes on
   in it with a token that only the device knows: ModelRunner carries it over there.
2. Only then it waits for step n, whose tokens the engine publishes while step n + 1 runs.
3. A sequence that ended with step n (end of sequence, stop token, cancel, deadline, failure) has run a token
   too many in step n + 1. The engine passes it over: it is in no output, no counter and no prefix key.
   Its blocks went back when it ended, though step n + 1 may write to them later: all that reads or writes
   blocks is put on one stream, so whoever gets them next comes behind it.
4. A step is landed at once, and the next scheduled with all known, if the host has its tokens anyway: on a
   CPU, and where one of them depends on those before it or tells more than itself (`is_memoryless`).
5. Before somebody must be preempted (`DecodeScheduler.can_grow`) the engine has all landed by `run(None)`.

Nothing else decides which steps overlap. The length limit wastes no token (`Sequence.runs_ahead`).
"""

import time
from dataclasses import dataclass

from common.engine.batch import Batch
from common.engine.model_runner import Launched, ModelRunner
from common.engine.sampler import Sample


@dataclass(frozen=True, slots=True)
class Landed:
    """A step that has run, with one sample or None for each of the batch's entries.

    Entries whose sequences hold no blocks any more ended while it ran: they are to be passed over.
    """

    batch: Batch
    samples: list[Sample | None]
    start_s: float  # on this process's monotonic clock, not before the end of the step before
    end_s: float


class Lookahead:
    """Owns the launch in flight. Engine's thread only."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._in_flight: Launched | None = None
        self._launched_s = 0.0
        self._landed_s = 0.0

    @property
    def is_flying(self) -> bool:
        """Whether there are tokens that only the device knows."""
        return self._in_flight is not None

    def run(self, batch: Batch | None) -> list[Landed]:
        """Launch `batch`, if there is one, and return the steps that came to be known, in order.

        What the batch runs counts as computed at once: whatever reads it is put behind it.
        """
        previous, previous_s = self._in_flight, self._launched_s
        self._in_flight = None
        landed = []
        if batch is not None:
            self._launched_s = time.monotonic()
            self._in_flight = self._runner.launch(batch, previous)
            for entry in batch.entries:
                entry.seq.num_computed_tokens = entry.start + entry.num_tokens
        if previous is not None:
            landed.append(self._land(previous, previous_s))
        if (launched := self._in_flight) is not None and launched.tokens is None:
            self._in_flight = None
            landed.append(self._land(launched, self._launched_s))
        return landed

    def _land(self, launched: Launched, launched_s: float) -> Landed:
        samples = launched.result()
        start_s, self._landed_s = max(launched_s, self._landed_s), time.monotonic()
        return Landed(launched.batch, samples, start_s, self._landed_s)
