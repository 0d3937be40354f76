"""Scaling: workers come, go and change their role while requests are served.

1. `make_plan` plans a change, or refuses it. The change runs in a task of its own, which goes on
   when its caller leaves. Only one runs at a time.
2. New workers are started first: if that fails, nothing has changed.
3. Workers that flip or stop are drained, all at once. No router chooses them for a new request, and
   the requests that they have, of any router, end.
4. A drained worker is flipped and takes work again, or leaves the pool and is stopped.
5. What a worker still has when the time for draining is over goes on at other workers.
6. A change that takes longer than its parts may take together is given up (`_within_s`).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum

from common.messages import Role
from common.telemetry.logs import get_logger
from pdserve.errors import (
    NotFoundError,
    PreconditionError,
    Reason,
    RequestTimeoutError,
    SetupError,
    UnavailableError,
)
from router.scaling.fleet import Fleet
from router.scaling.plan import Member, ScalePlan, make_plan
from router.workers.pool import WorkerPool
from router.workers.view import WorkerState

_CONNECT_WITHIN_S = 30.0  # for a worker that is ready, or has flipped
_log = get_logger()


class ScaleAction(StrEnum):
    """Kinds of steps of a change."""

    STARTING = "starting"
    STARTED = "started"
    DRAINING = "draining"
    FLIPPED = "flipped"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ScaleStep:
    """A step that is done, or begun now. `worker` is empty for a worker without a name yet."""

    action: ScaleAction
    worker: str
    role: Role


_Report = Callable[[ScaleStep], None]


class Scaler:
    """Runs one change at a time."""

    def __init__(
        self, pool: WorkerPool, fleet: Fleet, connect_within_s: float = _CONNECT_WITHIN_S
    ) -> None:
        self._pool = pool
        self._fleet = fleet
        self._connect_within_s = connect_within_s
        self._task: asyncio.Task[None] | None = None

    async def scale(
        self, prefill: int | None, decode: int | None, drain_timeout_s: float
    ) -> AsyncGenerator[ScaleStep]:
        """Change the workers to these numbers (None: as many as now), and yield each step.

        Raises InvalidRequestError, PreconditionError.
        """
        self._refuse_a_second()
        plan = make_plan(self._members(), prefill, decode)
        steps: asyncio.Queue[ScaleStep | None] = asyncio.Queue()
        task = self._begin(plan, drain_timeout_s, steps.put_nowait)
        task.add_done_callback(lambda _: steps.put_nowait(None))
        while (step := await steps.get()) is not None:
            yield step
        await _outcome(task)

    async def drain(self, worker: str, timeout_s: float) -> None:
        """Let a worker end its work and leave. Raises NotFoundError, and errors as `scale` does."""
        self._refuse_a_second()
        member = next((m for m in self._members() if m.name == worker), None)
        if member is None:
            raise NotFoundError(
                f"no worker named {worker}", reason=Reason.WORKER_NOT_FOUND, field="worker"
            )
        others = [m for m in self._members() if m.name != worker and m.role is Role.DECODE]
        if all(m.is_gone or m.is_draining for m in others):
            raise PreconditionError(f"without {worker} no decode worker would remain")
        plan = ScalePlan(gone=(worker,)) if member.is_gone else ScalePlan(stops=(worker,))
        await _outcome(self._begin(plan, timeout_s, _ignore))

    async def close(self) -> None:
        """Cancel the change that runs."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task

    def _refuse_a_second(self) -> None:
        if self._task is not None and not self._task.done():
            raise PreconditionError(
                "the workers are being changed", reason=Reason.SCALE_IN_PROGRESS
            )

    def _begin(
        self, plan: ScalePlan, drain_timeout_s: float, report: _Report
    ) -> "asyncio.Task[None]":
        change = self._carry_out(plan, drain_timeout_s, report)
        within_s = self._within_s(plan, drain_timeout_s)
        self._task = asyncio.create_task(_limit(change, within_s))
        self._task.add_done_callback(_log_failure)  # the caller may be gone
        return self._task

    def _within_s(self, plan: ScalePlan, drain_timeout_s: float) -> float:
        """Return the longest time that a change may take, in seconds."""
        limits, num_steps = self._fleet.limits, len(plan.flips) + len(plan.stops) + len(plan.gone)
        start_s = limits.start_s + self._connect_within_s if plan.starts else 0.0
        return drain_timeout_s + start_s + num_steps * (limits.step_s + self._connect_within_s)

    async def _carry_out(self, plan: ScalePlan, timeout_s: float, report: _Report) -> None:
        stops = [*plan.stops]
        for name in plan.gone:
            if self._pool.link(name).is_connected:
                stops.append(name)  # the worker came back: it is drained first, like any other
            else:
                await self._stop(name, report)
        if plan.starts:
            await self._start(plan.starts, report)
        leaving = (*plan.flips, *stops)
        deadline_s = time.monotonic() + timeout_s
        for name in leaving:
            self._pool.drain(name)
            report(ScaleStep(ScaleAction.DRAINING, name, self._pool.role(name)))
        try:
            for name in leaving:
                await self._empty(name, deadline_s)
                if name in stops:
                    await self._stop(name, report)
                    continue
                await self._fleet.flip(name, plan.flip_to)
                await self._pool.wait_role(name, plan.flip_to, self._connect_within_s)
                self._pool.undrain(name)
                report(ScaleStep(ScaleAction.FLIPPED, name, plan.flip_to))
        finally:
            for name in leaving:
                self._pool.undrain(name)

    async def _empty(self, name: str, deadline_s: float) -> None:
        """Wait for the end of a worker's work; at the deadline have the rest go on elsewhere."""
        try:
            await self._pool.wait_drained(name, deadline_s - time.monotonic())
        except RequestTimeoutError as error:
            _log.info("requests_evicted", worker=name, cause=error.message)
            self._pool.evict(name)

    async def _start(self, roles: tuple[Role, ...], report: _Report) -> None:
        for role in roles:
            report(ScaleStep(ScaleAction.STARTING, "", role))
        addresses = await self._fleet.start(roles)
        try:
            await self._pool.add(list(addresses.values()), self._connect_within_s)
        except (SetupError, UnavailableError) as error:
            for name in addresses:
                await self._fleet.stop(name)
            raise PreconditionError(str(error)) from error
        for name in addresses:
            report(ScaleStep(ScaleAction.STARTED, name, self._pool.role(name)))

    async def _stop(self, name: str, report: _Report) -> None:
        role = self._pool.role(name)
        await self._pool.remove(name)
        await self._fleet.stop(name)
        report(ScaleStep(ScaleAction.STOPPED, name, role))

    def _members(self) -> list[Member]:
        return [
            Member(
                view.info.name,
                view.info.role,
                view.load.num_running + view.load.num_waiting,
                is_gone=not view.is_connected and not view.is_coming_back,
                is_draining=view.state is WorkerState.DRAINING,
            )
            for view in self._pool.views()
        ]


async def _outcome(change: "asyncio.Task[None]") -> None:
    """Wait for a change, which goes on when the caller leaves. Raises what it raises.

    Raises UnavailableError when the router shuts down meanwhile.
    """
    await asyncio.wait([change])
    if change.cancelled():
        message = "the router shut down; what has begun may go on"
        raise UnavailableError(message, reason=Reason.SHUTTING_DOWN)
    change.result()


async def _limit(change: Coroutine[None, None, None], within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await change
    except TimeoutError:
        raise RequestTimeoutError(f"the change was not done in {within_s:g} s") from None


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("scale_failed", error=str(error))


def _ignore(step: ScaleStep) -> None:
    """Report no step: `drain` answers when the worker has left."""
