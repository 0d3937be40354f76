"""A router's requests on their way into a decode engine."""

import time

from common.engine.memory.prefix_cache import PrefixCache
from common.engine.model_spec import ModelSpec
from common.engine.request_check import refusal_of
from common.messages import SequenceOutput, StepOutput, WorkFailure, WorkRequest
from common.worker.loop import EngineLoop
from common.worker.step_feed import StepFeed
from decode_worker.engine import DecodeEngine


class DecodeIntake:
    """Posts requests to the engine's thread; their prefix keys are computed before, in the caller's."""

    def __init__(
        self,
        model: ModelSpec,
        prefix: PrefixCache,
        loop: EngineLoop,
        engine: DecodeEngine,
        feed: StepFeed,
    ) -> None:
        self._model = model
        self._prefix = prefix
        self._loop = loop
        self._engine = engine
        self._feed = feed

    def submit(self, request: WorkRequest) -> None:
        """Start a request. One that no step may run is refused before anything is made of it."""
        if (refusal := refusal_of(request, self._model)) is not None:
            self._loop.post(lambda: self._refuse(request.request_id, refusal))
            return
        seq = self._prefix.new_sequence(request, time.monotonic())
        self._loop.post(lambda: self._engine.submit(seq))

    def cancel(self, request_id: str) -> None:
        """Stop a request; ignore unknown ids."""
        self._loop.post(lambda: self._engine.cancel(request_id))

    def _refuse(self, request_id: str, failure: WorkFailure) -> None:
        self._feed.publish(StepOutput((SequenceOutput(request_id, 0, failure=failure),)))
