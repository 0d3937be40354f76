"""Faults of real processes: each strikes once, and says whom it met."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from benchmarks.chaos.asking import Asking
from benchmarks.chaos.connections import cut_connections
from benchmarks.chaos.fleet import DECODE, PREFILL, Fleet
from benchmarks.chaos.killed_client import kill_a_client
from pdserve.errors import NotFoundError
from pdserve.v1 import admin_pb2

ROUTER_KILLED = "router killed"  # needs a second router
_STOP_S = (1.0, 7.0)  # on both sides of the 5 s after which a silent worker's requests move


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault that has happened."""

    at_s: float
    askings: list[Asking]  # that it met
    replaced: dict[str, str] = field(
        default_factory=dict
    )  # worker to be started anew -> incarnation


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. `strike` returns when it is done, not when it is over."""

    name: str
    promise: str
    strike: Callable[[Fleet, random.Random], Awaitable[Strike]]


def _killing(role: int, number: int) -> Callable[[Fleet, random.Random], Awaitable[Strike]]:
    async def strike(fleet: Fleet, draw: random.Random) -> Strike:
        return await _signal(fleet, draw, role, number, signal.SIGKILL)

    return strike


def _hanging(role: int) -> Callable[[Fleet, random.Random], Awaitable[Strike]]:
    async def strike(fleet: Fleet, draw: random.Random) -> Strike:
        return await _signal(fleet, draw, role, 1, signal.SIGSTOP)

    return strike


def _stopping(role: int) -> Callable[[Fleet, random.Random], Awaitable[Strike]]:
    async def strike(fleet: Fleet, draw: random.Random) -> Strike:
        [victim] = draw.sample(await fleet.workers(role), 1)
        askings = await fleet.until_busy(victim.name)
        at_s = time.monotonic()
        _send(victim, signal.SIGSTOP)
        try:
            await asyncio.sleep(draw.uniform(*_STOP_S))
        finally:
            _send(victim, signal.SIGCONT)
        return Strike(at_s, askings)

    return strike


async def _signal(
    fleet: Fleet, draw: random.Random, role: int, number: int, what: signal.Signals
) -> Strike:
    victims = draw.sample(await fleet.workers(role), number)
    askings = await fleet.until_busy(*(victim.name for victim in victims))
    at_s = time.monotonic()
    for victim in victims:
        _send(victim, what)
    return Strike(at_s, askings, {victim.name: victim.incarnation for victim in victims})


async def _kill_supervisor(fleet: Fleet, draw: random.Random) -> Strike:
    askings = list(fleet.running.values())
    at_s = time.monotonic()
    await asyncio.to_thread(lambda: fleet.process("SupervisorActor").kill())
    return Strike(at_s, askings)


async def _cut(fleet: Fleet, draw: random.Random) -> Strike:
    workers = draw.sample(await fleet.workers(DECODE, PREFILL), 1)
    askings = await fleet.until_busy(*(worker.name for worker in workers))
    at_s = time.monotonic()
    await asyncio.to_thread(cut_connections, [worker.address for worker in workers])
    return Strike(at_s, askings)


async def _cancel(fleet: Fleet, draw: random.Random) -> Strike:
    running = list(fleet.running.values())
    askings = draw.sample(running, (len(running) + 1) // 2)
    at_s = time.monotonic()
    for asking in askings:
        for router in fleet.routers:
            with contextlib.suppress(NotFoundError):  # it has ended, or is at the other one
                await router.cancel(asking.request_id, timeout=30.0)
    return Strike(at_s, askings)


async def _kill_router(fleet: Fleet, draw: random.Random) -> Strike:
    if fleet.joined is None:
        raise LookupError("the fleet has no second router")
    askings = [asking for asking in fleet.running.values() if asking.is_resumable]
    at_s = time.monotonic()
    await fleet.joined.kill()
    await fleet.joined.start_again()
    return Strike(at_s, askings)


async def _kill_client(fleet: Fleet, draw: random.Random) -> Strike:
    await kill_a_client(fleet.address)
    return Strike(time.monotonic(), list(fleet.running.values()))


def _send(worker: admin_pb2.WorkerStatus, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # another fault ended it
        os.kill(worker.pid, what)


_SAME = "same text"
FAULTS = (
    Fault(
        "prefill worker killed", f"{_SAME}; decode runs the rest; restarted", _killing(PREFILL, 1)
    ),
    Fault("decode worker killed", f"{_SAME}, at another worker; restarted", _killing(DECODE, 1)),
    Fault("all decode workers killed", f"{_SAME}, after the restart", _killing(DECODE, 2)),
    Fault("prefill worker hangs", f"{_SAME}; killed by the watchdog, restarted", _hanging(PREFILL)),
    Fault("decode worker hangs", f"{_SAME}; killed by the watchdog, restarted", _hanging(DECODE)),
    Fault("prefill worker stopped for 1 to 7 s", _SAME, _stopping(PREFILL)),
    Fault("decode worker stopped for 1 to 7 s", f"{_SAME}; moved after 5 s", _stopping(DECODE)),
    Fault("connections of a worker cut", f"{_SAME}; attached again", _cut),
    Fault("supervisor killed", "nothing but a restart of it", _kill_supervisor),
    Fault(ROUTER_KILLED, f"{_SAME}, at another router", _kill_router),
    Fault("requests cancelled", "what came is right; blocks are free", _cancel),
    Fault("client killed", "others notice nothing", _kill_client),
)


def named(names: Iterable[str]) -> list[Fault]:
    """Return the faults with these names. Raises LookupError."""
    known = {fault.name: fault for fault in FAULTS}
    return [known[name] for name in names]
