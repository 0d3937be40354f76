"""Worker without a model, behind the real gRPC service; it does what a test tells it."""

import threading
from collections.abc import Callable

from common.ledger import BlockLedger, BlockQuestion
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
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE

CONTEXT, BLOCKS, BLOCK_SIZE = 512, 16, 16  # KV memory for 256 positions

NO_HOLDERS = BlockLedger(BLOCKS, BLOCKS, 0, 0, BLOCK_SIZE, 0, ())
Script = Callable[["ScriptedWorker", WorkRequest], None]


class ScriptedWorker:
    """WorkerPort that runs `script` at each submission, and otherwise does nothing by itself."""

    def __init__(
        self,
        name: str = "decode-0",
        role: Role = Role.DECODE,
        fingerprint: str = "tiny",
        script: Script | None = None,
    ) -> None:
        self.info = WorkerInfo(name, role, 4711, f"{name}-first", fingerprint, CONTEXT, VOCAB_SIZE)
        self.prefixes = PrefixLog(max_changes=BLOCKS)
        self.requests: list[WorkRequest] = []
        self.live: set[str] = set()
        self.cancelled: list[str] = []
        self.num_subscriptions = 0  # in all
        self.reported = WorkerLoad(
            blocks_total=BLOCKS, blocks_free=BLOCKS, block_size=BLOCK_SIZE, num_running=0
        )
        # makes the answer to a question; None: questions are not answered
        self.ledger: Callable[[str], BlockLedger] | None = lambda _: NO_HOLDERS
        self.questions: list[BlockQuestion] = []
        self._script = script
        self._sinks: list[Callable[[StepOutput], None]] = []
        self._changed = threading.Condition(threading.RLock())

    def submit(self, request: WorkRequest) -> None:
        """Record a request, and run the script."""
        with self._changed:
            self.requests.append(request)
            self.live.add(request.request_id)
            self._changed.notify_all()
        if self._script:
            self._script(self, request)

    def cancel(self, request_id: str) -> None:
        """Record a cancel, and end its request."""
        with self._changed:
            if request_id in self.live:
                self.live.remove(request_id)
                self.cancelled.append(request_id)
                self._changed.notify_all()

    def load(self) -> WorkerLoad:
        """Return the scripted load."""
        return self.reported

    def ask_blocks(self, question: BlockQuestion, answer: Callable[[BlockLedger], None]) -> None:
        """Answer a question about blocks with `ledger`."""
        self.questions.append(question)
        if self.ledger is not None:
            answer(self.ledger(question.request_id))

    def subscribe(self, sink: Callable[[StepOutput], None]) -> Callable[[], None]:
        """Add a sink for the steps; return a function that removes it."""
        with self._changed:
            self._sinks.append(sink)
            self.num_subscriptions += 1
            self._changed.notify_all()

        def unsubscribe() -> None:
            with self._changed:
                self._sinks.remove(sink)
                self._changed.notify_all()

        return unsubscribe

    def publish(self, *outputs: SequenceOutput) -> None:
        """Publish one engine step with these outputs."""
        with self._changed:
            ended = {o.request_id for o in outputs if o.finish_reason or o.failure}
            self.live -= ended
            self._changed.notify_all()
            sinks = list(self._sinks)
        for sink in sinks:
            sink(StepOutput(outputs))

    def say(self, request: WorkRequest, text: str, index: int = 0, *, ends: bool = False) -> None:
        """Publish a step with the text's bytes as tokens."""
        reason = FinishReason.STOP if ends else None
        self.publish(SequenceOutput(request.request_id, index, tuple(text.encode()), reason))

    def wait(self, is_so: Callable[["ScriptedWorker"], bool]) -> None:
        """Block until `is_so`; fails after WITHIN_S."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self), WITHIN_S), (
                f"{self.info.name}: live {self.live}, cancelled {self.cancelled}"
            )

    def wait_for_request(self, number: int = 1) -> WorkRequest:
        """Return the number-th request when it has arrived."""
        self.wait(lambda worker: len(worker.requests) >= number)
        return self.requests[number - 1]


def echo(worker: ScriptedWorker, request: WorkRequest) -> None:
    """Answer with the prompt, one token a step, cut at max_tokens; a script."""
    tokens = request.prompt_token_ids[: request.sampling.max_tokens]
    is_cut = len(tokens) < len(request.prompt_token_ids)
    last = FinishReason.LENGTH if is_cut else FinishReason.STOP
    for index, token in enumerate(tokens):
        reason = last if index == len(tokens) - 1 else None
        worker.publish(SequenceOutput(request.request_id, index, (token,), reason))
