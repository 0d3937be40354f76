"""Requests that outlive their stream: a client that lost it comes back for the rest.

1. `start` runs a request in a task of its own, which keeps its latest messages; the stream reads those. gRPC
   may send a call again whose connection broke before the first message: whoever sends a running request
   again, word for word, gets a stream of it from the beginning.
2. `resume` opens another stream. Each stream gets every message from the one it asks for, in order.
3. When the last stream leaves before the end, the request goes on for `resume_grace_s`; then it is cancelled.
4. When it has ended, it can be resumed for as long, unless its tenant has too many of those, or its id comes
   again; then it is forgotten. One that ended without a message is forgotten at once: there is nothing to
   resume.
5. `close` ends all.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from hashlib import sha256

from common.config import RouterConfig
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

# of messages, for each tenant's ended requests together
_ENDED_BUFFERS = 16
_log = get_logger()

Responses = AsyncGenerator[inference_pb2.GenerateResponse]


class _Run:
    """One resumable request."""

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
        """Messages that can be sent again."""
        return len(self._kept)

    def add(self, response: inference_pb2.GenerateResponse) -> None:
        """The next message."""
        self._kept.append(response)
        self.num_messages += 1
        self._announce()

    def end(self) -> None:
        """No more messages."""
        self.has_ended = True
        self._announce()

    def get(self, sequence: int) -> inference_pb2.GenerateResponse:
        """The message of this number. Raises InvalidRequestError when it is no longer kept."""
        first = self.num_messages - len(self._kept)
        if sequence < first:
            raise InvalidRequestError(
                f"messages before {first} are no longer kept",
                reason=Reason.NOT_RESUMABLE,
                field="resume_from",
            )
        return self._kept[sequence - first]

    async def change(self) -> None:
        """Return when there is a message more, or the end."""
        await self._news.wait()

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Resumables:
    """The resumable requests that run, and those that ended a short while ago. On one event loop."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._running: dict[RequestKey, _Run] = {}
        self._ended: OrderedDict[RequestKey, _Run] = OrderedDict()

    @property
    def num_held(self) -> int:
        """Requests whose messages are kept."""
        return len(self._running) + len(self._ended)

    def is_running(self, key: RequestKey) -> bool:
        """Whether a resumable request of this key runs: the very same may be sent again."""
        return key in self._running

    def start(
        self,
        key: RequestKey,
        request: inference_pb2.GenerateRequest,
        responses: Responses,
        timeout_s: float | None,
    ) -> Responses:
        """Run a request to its end and read its messages; if the very same runs, read that one's.

        Raises DuplicateRequestError when another request of this key runs.
        """
        digest = sha256(request.SerializeToString(deterministic=True)).digest()
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
        """Messages of a request from this one on. Raises NotFoundError, InvalidRequestError."""
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

    async def close(self) -> None:
        """Cancel what runs and forget the rest."""
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
        except asyncio.CancelledError:  # only `close` and the end of the grace cancel this task
            run.error = RequestCancelledError("nobody came back for it in time")
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
            return  # as if it had never come: an earlier run of the id stays
        self._forget(key)
        if run.num_messages:
            self._ended[key] = run
            run.timer = self._after_grace(lambda: self._forget(key))
            self._make_room(key.tenant)

    def _make_room(self, tenant: Tenant) -> None:
        """Forget the tenant's oldest while it has too many that ended."""
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
