"""The router's side of one worker's stream.

1. `start` connects, and again after every loss, with back-off, until `close`.
2. The worker introduces itself. `on_info` may refuse it (another model); then the link stays down,
   as when the worker shows no certificate of this deployment.
   With its first load report it is connected. Then it reports its prefixes, and their changes.
3. `submit` opens a WorkStream and sends the job. Step outputs are handed out to the streams.
4. `ask_blocks` sends a question. The answer comes between the step outputs.
5. When the connection breaks, the worker goes on. The next one attaches the streams again: the
   worker sends what they lack. Open questions get an error.
6. Every stream gets a WORKER_LOST failure when the worker is given up. It died if its address
   refuses connections, or answers as another incarnation. It is also given up when it was silent
   for too long (silence.py), connected or not, or says what cannot be read.
"""

import asyncio
import time
from collections.abc import Callable

from common.certificates import OPEN, WorkerAccess
from common.ledger import BlockQuestion
from common.messages import SequenceOutput, WorkerInfo, WorkerLoad, WorkFailure, WorkRequest
from common.rpc.convert import info_from_pb, load_from_pb, step_from_pb
from common.rpc.convert_routing import prefixes_from_pb
from common.telemetry.logs import get_logger
from pdserve.errors import PdserveError, Reason, UnavailableError
from pdserve.v1 import ledger_pb2, worker_pb2
from router.routing.prefix_index import PrefixIndex
from router.workers import messages
from router.workers.conversation import Conversation, Fault, brief, fault_of
from router.workers.open_work import OpenWork
from router.workers.questions import Questions
from router.workers.silence import TICK_S, Silence
from router.workers.work_stream import WorkStream

_BACKOFF_S = (0.02, 0.1, 0.2, 0.5, 1.0, 2.0)
_ANSWER_WITHIN_S = (1.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # a slow way is tried longer each time
_LEAVE_S = 1.0
_DIED = WorkFailure(Reason.WORKER_LOST, "the decode worker is gone", is_death=True)
_GIVEN_UP = WorkFailure(Reason.WORKER_LOST, "the decode worker is gone, or out of reach")
_LEAVES = WorkFailure(Reason.WORKER_LOST, "the worker leaves")
_log = get_logger()


class WorkerLink:
    """A worker as the router knows it. Call all methods on the router's event loop."""

    def __init__(
        self,
        address: str,
        on_info: Callable[[WorkerInfo], None],
        router_id: str,
        access: WorkerAccess = OPEN,
        on_lost: Callable[[str, WorkFailure], None] = lambda name, failure: None,
    ) -> None:
        self.address = address
        self.info: WorkerInfo | None = None
        self.load = WorkerLoad()
        self.prefixes = PrefixIndex()
        self.is_connected = False
        self.refusal: PdserveError | None = None
        self.num_streams = 0  # that were begun
        self._on_info = on_info
        self._on_lost = on_lost
        self._router_id = router_id
        self._access = access
        self._silence = Silence()
        self._work = OpenWork()
        self._questions = Questions()
        self._drains = False
        self._is_missed = False  # a loss was logged, and no return since
        self.is_closing = False
        self._conversation = Conversation()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def num_live(self) -> int:
        """Number of this router's choices that the worker has."""
        return len(self._work)

    @property
    def is_silent(self) -> bool:
        """True if the worker has said nothing for too long, connected or not."""
        return self._silence.is_long

    def start(self) -> None:
        """Start connecting in the background."""
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._watch())]

    async def close(self, *, has_died: bool = False) -> None:
        """Disconnect for good; open streams and questions fail as after a loss, or a death."""
        was_connected = self.is_connected
        self._lose(_DIED if has_died else _GIVEN_UP)
        self.is_closing = True
        if self._tasks and was_connected:  # the worker ends the stream when it has heard it
            self._say(messages.leave())
            await asyncio.wait(self._tasks[:1], timeout=_LEAVE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def submit(self, request: WorkRequest, stream: WorkStream) -> None:
        """Send a job whose outputs go to `stream`; `release` must follow.

        Raises UnavailableError when the worker is not there.
        """
        if not self.is_connected:
            raise UnavailableError(f"worker at {self.address} is gone", reason=Reason.WORKER_LOST)
        self._work.add(request, stream)
        stream.submitted(self)
        self._say(messages.submit(request))

    def release(self, stream: WorkStream) -> None:
        """Forget a stream; a worker that still works on it is told to stop. Safe to repeat."""
        if self._work.remove(stream):
            self._say(messages.cancel(stream.request_id))

    def evict(self) -> None:
        """End all streams with WORKER_LOST, and the work, at a worker that is to leave."""
        for request_id in self._fail(_LEAVES):
            self._say(messages.cancel(request_id))

    def set_draining(self, is_draining: bool) -> None:
        """Make the worker tell all routers to send it nothing new, or to send again."""
        if is_draining is not self._drains:
            self._drains = is_draining
            self._say(messages.set_draining(self._drains))

    async def ask_blocks(self, question: BlockQuestion) -> ledger_pb2.BlockLedger:
        """Return the holders of the worker's blocks; the deadline is the caller's.

        Raises UnavailableError when the worker is not connected or goes away.
        """
        if not self.is_connected:
            raise UnavailableError("unreachable")
        number, answer = self._questions.ask()
        self._say(messages.query(number, question))
        return await answer

    async def _run(self) -> None:
        failures = 0
        while self.refusal is None and not self.is_closing:
            within_s = _ANSWER_WITHIN_S[min(failures, len(_ANSWER_WITHIN_S) - 1)]
            self._conversation = self._begin()
            try:
                await self._conversation.run(self.address, self._access, self._take, within_s)
                self._miss("the worker ended the stream")
            except Exception as error:  # also a peer's nonsense: the streams must learn of the loss
                if isinstance(error, PdserveError):  # it is untrusted, or `on_info` has refused it
                    self.refusal, address = error, self.address
                    _log.error("worker_refused", address=address, error=str(error))
                self._miss(brief(error))
                if (fault := fault_of(error)) is not Fault.BREAK:
                    self._lose(_DIED if fault is Fault.REFUSED else _GIVEN_UP)
            failures = 0 if self.is_connected or self.is_closing else failures + 1
            self._disconnect()
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
        self._lose(_GIVEN_UP)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._silence.tick():
                self._lose(_GIVEN_UP)
                self._conversation.hang_up()

    def _begin(self) -> Conversation:
        self.num_streams += 1
        conversation = Conversation()
        number = time.monotonic_ns()  # later ones are higher, also of a new link to the same worker
        conversation.say(messages.attach(self._router_id, number, self._work.present()))
        return conversation

    def _take(self, message: worker_pb2.ConnectResponse) -> None:
        self._silence.heard()
        if message.HasField("step"):
            for output in step_from_pb(message.step):
                self._hand_out(output)
        elif message.HasField("load"):
            self.load = load_from_pb(message.load)
            if not (self.is_connected or self.is_closing):  # not earlier: it tells KV memory
                self._arrive()
            if ended := self._work.take_ended():
                self._say(messages.received_ends(ended))
        elif message.HasField("prefixes"):
            if not self.prefixes.apply(prefixes_from_pb(message.prefixes)):
                self._say(messages.resync())
        elif message.HasField("blocks"):
            self._questions.settle(message.blocks.query_id, message.blocks.ledger)
        elif message.HasField("info"):
            self._meet(info_from_pb(message.info))

    def _meet(self, info: WorkerInfo) -> None:
        """Take the worker's identity. Raises PdserveError when it is refused."""
        self._on_info(info)
        self._conversation.is_answered()
        known, self.info = self.info, info
        if self.is_connected:  # it has taken another role
            return
        if known is not None and known.incarnation != info.incarnation:
            for request_id in self._fail(_DIED):
                self._say(messages.cancel(request_id))
        for work in self._work.present():
            if work.unheard is not None:
                self._say(messages.submit(work.unheard))

    def _arrive(self) -> None:
        self.is_connected = True
        if self._drains:  # the worker forgot it with the connection
            self._say(messages.set_draining(self._drains))
        if self._is_missed:
            self._is_missed = False
            _log.info("worker_back", worker=self._name, address=self.address)

    def _hand_out(self, output: SequenceOutput) -> None:
        stopped = self._work.hand_out(output)
        if stopped is not None:
            self.release(stopped)

    def _miss(self, error: str) -> None:
        if not (self._is_missed or self.is_closing or self.refusal):
            self._is_missed = True
            _log.warning("worker_lost", worker=self._name, address=self.address, error=error)

    def _disconnect(self) -> None:
        self.is_connected = False
        self.prefixes = PrefixIndex()
        self._questions.lose("its connection was lost")

    def _lose(self, failure: WorkFailure = _GIVEN_UP) -> None:
        """Give the worker up, for now or for good: its streams end with the failure."""
        self._disconnect()
        self._fail(failure)

    def _fail(self, failure: WorkFailure) -> list[str]:
        """End the streams, and tell who waits for this worker; return the requests' ids."""
        if not self.is_closing:  # then another link may have the name
            self._on_lost(self._name, failure)
        return self._work.fail(failure)

    @property
    def _name(self) -> str:
        return self.info.name if self.info is not None else self.address

    def _say(self, message: messages.Message) -> None:
        """Send a message; without a connection it is lost, and the next one begins with the state."""
        self._conversation.say(message)
