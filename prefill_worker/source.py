"""The KV streams of a prefill worker, which decode workers open.

1. `stream` (in a thread of the transport) refuses a prompt that no step may run. It computes the prefix keys
   and posts the prompt to the engine's thread, with an outbox for its items.
2. It yields what the engine puts into the outbox, as far as the object store has room (send_credit.py).
3. A stream that ends early, or `cancel_stream`, makes the engine drop the prompt before its next step.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

from common.engine.memory.prefix_cache import PrefixCache
from common.engine.model_spec import ModelSpec
from common.engine.request_check import refusal_of
from common.kv_transfer.wire import WireItem, make_failure
from common.messages import WorkRequest
from common.worker.loop import EngineLoop
from prefill_worker.engine import PrefillEngine
from prefill_worker.outbox import KVOutbox
from prefill_worker.send_credit import SendCredit


class PrefillSource:
    """A KVSource: runs prompts on the engine and yields their KV."""

    def __init__(
        self,
        model: ModelSpec,
        prefix: PrefixCache,
        loop: EngineLoop,
        engine: PrefillEngine,
        credit: SendCredit,
    ) -> None:
        self.credit = credit
        self._model = model
        self._prefix = prefix
        self._loop = loop
        self._engine = engine

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        """Run the prompt and yield its items (KVSource)."""
        if (refusal := refusal_of(request, self._model)) is not None:
            key = (request.request_id, request.attempt)
            yield make_failure(*key, refusal.reason, refusal.message)
            return
        request = replace(request, max_item_tokens=self.credit.max_item_tokens(request))
        seq = self._prefix.new_sequence(request, time.monotonic())
        outbox = KVOutbox(self.credit.look_again)
        self._loop.post(lambda: self._engine.accept(seq, outbox))
        is_complete = False
        try:
            yield from self.credit.pass_on(outbox, self.credit.cost(request))
            is_complete = True
        finally:
            if not is_complete:
                self.cancel_stream(request.request_id, request.attempt)

    def cancel_stream(self, request_id: str, attempt: int) -> None:
        """Stop that run of the prompt (KVSource)."""
        self._loop.post(lambda: self._engine.cancel((request_id, attempt)))
