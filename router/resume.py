"""Requests that outlive their stream: a client that lost it comes back for the rest.

1. `start` runs a request in a task of its own, which keeps its latest messages; the stream reads those.
2. `resume` opens another stream. Each stream gets every message from the one it asks for, in order.
3. When the last stream leaves before the end, the request goes on for `resume_grace_s`; then it is cancelled.
4. When it has ended, it can be resumed for as long; then it is forgotten. One that ended without a message is
   forgotten at once: there is nothing to resume.
5. `close` ends all.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from common.config import RouterConfig
from common.telemetry.logs import get_logger
from pdserve.errors import (
    DuplicateRequestError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    Reason,
    RequestCancelledError,
    RequestError,
    RequestTimeoutError,
)
from pdserve.v1 import inference_pb2
from router.tenant import RequestKey, Tenant, find

_log = get_logger()

Responses = AsyncGenerator[inference_pb2.GenerateResponse]


class _Run:
    """One resumable request."""

    def __init__(self, max_messages: int) -> None:
        self.num_messages = 0
        self.num_streams = 0
        self.has_ended = False
        self.error: RequestError | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._kept: deque[inference_pb2.GenerateResponse] = deque(maxlen=max_messages)
        self._news = asyncio.Event()

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

    def start(self, key: RequestKey, responses: Responses, timeout_s: float | None) -> Responses:
        """Run a request to its end and read its messages. Raises DuplicateRequestError."""
        if key in self._running:
            raise DuplicateRequestError(f"request {key.request_id} is running", field="request_id")
        self._forget(key)
        run = self._running[key] = _Run(self._config.resume_buffer_messages)
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
        if not run.num_messages:
            return
        self._ended[key] = run
        run.timer = self._after_grace(lambda: self._forget(key))
        if len(self._ended) > self._config.max_inflight_requests:
            self._forget(next(iter(self._ended)))

    def _after_grace(self, action: Callable[[], object]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._config.resume_grace_s, action)

    def _forget(self, key: RequestKey) -> None:
        run = self._ended.pop(key, None)
        if run is not None and run.timer is not None:
            run.timer.cancel()
