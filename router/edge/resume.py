"""Resumable requests, which outlive their stream: a client that lost it comes back for the rest.

1. `start` runs a request in a task of its own, which keeps the latest messages. The stream reads
   those. gRPC may send a call again whose connection broke before the first message. So a client
   that sends a running request again, word for word, gets a stream of it from the beginning. So
   does a call after the end that is marked as sent again (`read_again`).
2. `resume` opens another stream. Each stream gets every message from the number it asks for, in
   order.
3. When the last stream leaves before the end, the request goes on for `resume_grace_s`. Then it is
   cancelled.
4. An ended request can be resumed for `resume_grace_s`. It is forgotten earlier when its tenant has
   too many ended ones, or when its id comes again. Without a message it is forgotten at once.
5. A client that went on at another router may come back, with the output that it has. `displace` ends
   what still runs here; it is another run of the request.
6. `close` ends all.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from hashlib import sha256

from common.router_config import RouterConfig
from common.telemetry.logs import get_logger
from pdserve.errors import (
    DuplicateRequestError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    RequestCancelledError,
    RequestError,
    RequestTimeoutError,
)
from pdserve.v1 import inference_pb2
from router.access.tenant import RequestKey, Tenant, find

# buffers of messages for all ended requests of a tenant
_ENDED_BUFFERS = 16
_log = get_logger()

Request = inference_pb2.GenerateRequest
Responses = AsyncGenerator[inference_pb2.GenerateResponse]


class _Run:
    """A resumable request and its latest messages."""

    def __init__(self, digest: bytes, max_messages: int) -> None:
        self.digest = digest
        self.num_messages = 0
        self.num_streams = 0
        self.has_ended = False
        self.error: RequestError | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._kept: deque[inference_pb2.GenerateResponse] = deque(maxlen=max_messages)
        self._news = asyncio.Event()

    @property
    def num_kept(self) -> int:
        """Number of messages that can be sent again."""
        return len(self._kept)

    def add(self, response: inference_pb2.GenerateResponse) -> None:
        """Add the next message."""
        self._kept.append(response)
        self.num_messages += 1
        self._announce()

    def end(self) -> None:
        """Mark the end: no message follows."""
        self.has_ended = True
        self._announce()

    def get(self, sequence: int) -> inference_pb2.GenerateResponse:
        """Return the message of this number. Raises InvalidRequestError when it is no longer kept."""
        first = self.num_messages - len(self._kept)
        if sequence < first:
            raise InvalidRequestError(
                f"messages before {first} are no longer kept",
                reason=Reason.NOT_RESUMABLE,
                field="resume_from",
            )
        return self._kept[sequence - first]

    async def change(self) -> None:
        """Wait for another message, or the end."""
        await self._news.wait()

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Resumables:
    """Resumable requests that run, and those that ended a short while ago. On one event loop."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._running: dict[RequestKey, _Run] = {}
        self._ended: OrderedDict[RequestKey, _Run] = OrderedDict()

    @property
    def num_held(self) -> int:
        """Number of requests with kept messages."""
        return len(self._running) + len(self._ended)

    def is_running(self, key: RequestKey) -> bool:
        """Return True if a resumable request of this key runs, so that the same may be sent again."""
        return key in self._running

    def start(
        self, key: RequestKey, request: Request, responses: Responses, timeout_s: float | None
    ) -> Responses:
        """Run a request to its end and read its messages.

        If the same request runs already, read that one.

        Raises DuplicateRequestError when another request of this key runs.
        """
        digest = _digest(request)
        running = self._running.get(key)
        if running is not None and running.digest == digest:
            return self._follow(running, 0)
        if running is not None:
            raise DuplicateRequestError(f"request {key.request_id} is running", field="request_id")
        run = self._running[key] = _Run(digest, self._config.resume_buffer_messages)
        run.task = asyncio.create_task(self._drive(key, run, responses, timeout_s))
        run.timer = self._after_grace(run.task.cancel)  # until its stream is read
        return self._follow(run, 0)

    def resume(self, tenant: Tenant, request_id: str, sequence: int) -> Responses:
        """Yield a request's messages from number `sequence` on.

        Raises NotFoundError, InvalidRequestError.
        """
        runs = {**self._ended, **self._running}
        key = find(runs, tenant, request_id)
        if key is None:
            raise NotFoundError(
                f"no resumable request {request_id} runs or ended in the last "
                f"{self._config.resume_grace_s:g} s",
                field="request_id",
            )
        run = runs[key]
        if sequence > run.num_messages:
            raise InvalidRequestError(
                f"{sequence} is beyond the {run.num_messages} messages so far", field="resume_from"
            )
        return self._follow(run, sequence)

    def read_again(self, key: RequestKey, request: Request) -> Responses | None:
        """Read the very same request from its beginning, running or ended; None if there is none."""
        run = self._running.get(key) or self._ended.get(key)
        return self._follow(run, 0) if run and run.digest == _digest(request) else None

    async def displace(self, key: RequestKey, request: Request) -> None:
        """End a request of this key that runs, unless it is the very same."""
        await asyncio.sleep(0)  # a task that was cancelled before it began would end nothing
        run = self._running.get(key)
        if run is not None and run.task is not None and run.digest != _digest(request):
            run.error = RequestCancelledError("its client goes on with a later call")
            run.task.cancel()
            await asyncio.wait([run.task])

    async def close(self) -> None:
        """Cancel the running requests and forget the others."""
        tasks = [run.task for run in self._running.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for key in list(self._ended):
            self._forget(key)

    async def _follow(self, run: _Run, sequence: int) -> Responses:
        run.num_streams += 1
        if run.timer is not None and not run.has_ended:
            run.timer.cancel()
        try:
            while True:
                while sequence < run.num_messages:
                    yield run.get(sequence)
                    sequence += 1
                if run.has_ended:
                    break
                await run.change()
            if run.error is not None:
                raise run.error
        finally:
            run.num_streams -= 1
            if not run.num_streams and not run.has_ended and run.task is not None:
                run.timer = self._after_grace(run.task.cancel)

    async def _drive(
        self, key: RequestKey, run: _Run, responses: Responses, timeout_s: float | None
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s), aclosing(responses):
                async for response in responses:
                    run.add(response)
        except RequestError as error:
            run.error = error
        except TimeoutError:
            run.error = RequestTimeoutError("the deadline passed")
        except asyncio.CancelledError:  # by `displace`, `close` or the end of the grace
            run.error = run.error or RequestCancelledError("nobody came back for it in time")
        except Exception as error:
            _log.exception("generate_failed")
            run.error = InternalError(f"unexpected {type(error).__name__}")
        run.end()
        self._retire(key, run)

    def _retire(self, key: RequestKey, run: _Run) -> None:
        del self._running[key]
        if run.timer is not None:
            run.timer.cancel()
        is_refused = isinstance(run.error, DuplicateRequestError | OverloadedError)
        if not run.num_messages and is_refused:
            return  # an earlier run of the id stays
        self._forget(key)
        if run.num_messages:
            self._ended[key] = run
            run.timer = self._after_grace(lambda: self._forget(key))
            self._make_room(key.tenant)

    def _make_room(self, tenant: Tenant) -> None:
        """Forget the tenant's oldest ended requests while it has too many."""
        mine = deque(key for key in self._ended if key.tenant == tenant)
        num_kept = sum(self._ended[key].num_kept for key in mine)
        max_kept = _ENDED_BUFFERS * self._config.resume_buffer_messages
        while len(mine) > self._config.max_inflight_requests or num_kept > max_kept:
            oldest = mine.popleft()
            num_kept -= self._ended[oldest].num_kept
            self._forget(oldest)

    def _after_grace(self, action: Callable[[], object]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._config.resume_grace_s, action)

    def _forget(self, key: RequestKey) -> None:
        run = self._ended.pop(key, None)
        if run is not None and run.timer is not None:
            run.timer.cancel()


def _digest(request: Request) -> bytes:
    return sha256(request.SerializeToString(deterministic=True)).digest()
