"""The command `pdserve scale`."""

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import Annotated

import typer
from rich.console import Console

from cli.connection import Connection
from cli.drain import ChangeTimeout, DrainTimeout, telling_of_timeouts
from cli.grid import Column, Grid, Row
from cli.output import AsJson, AsPlain, check_forms, print_json, print_plain
from cli.workers import ROLES
from pdserve.errors import SetupError
from pdserve.v1 import admin_pb2

_DONE = {
    admin_pb2.SCALE_ACTION_FLIPPED: "flipped",
    admin_pb2.SCALE_ACTION_STARTED: "started",
    admin_pb2.SCALE_ACTION_STOPPED: "stopped",
}
_BEGUN = {
    admin_pb2.SCALE_ACTION_STARTING: "starting",
    admin_pb2.SCALE_ACTION_DRAINING: "draining",
}


def command(
    connection: Connection,
    prefill: Annotated[
        int | None, typer.Option(min=0, max=1024, help="Prefill workers; unset: as now")
    ] = None,
    decode: Annotated[
        int | None, typer.Option(min=0, max=256, help="Decode workers, at least 1; unset: as now")
    ] = None,
    drain_timeout: DrainTimeout = 300.0,
    timeout: ChangeTimeout = None,
    as_plain: AsPlain = False,
    as_json: AsJson = False,
) -> None:
    """Change how many workers there are, while they serve. Flips roles where it can."""
    if prefill is None and decode is None:
        raise SetupError("neither --prefill nor --decode is given", "give one or both")
    check_forms(as_json=as_json, as_plain=as_plain)
    with telling_of_timeouts():
        done = asyncio.run(_scale(connection, prefill, decode, drain_timeout, timeout))
    counts = {word: done[word] for word in _DONE.values()}
    if as_json:
        print_json(counts)
        return
    if as_plain:
        rows = [Row((word, str(count))) for word, count in counts.items()]
        print_plain(Grid((Column("action"), Column("workers")), rows))
        return
    parts = [f"{done[word]} {word}" for word in _DONE.values() if done[word]]
    print(", ".join(parts) or "nothing to do")


async def _scale(
    connection: Connection,
    prefill: int | None,
    decode: int | None,
    drain_timeout_s: float,
    timeout_s: float | None,
) -> Counter[str]:
    """Report progress on stderr; return how often each action was taken."""
    console, done = Console(stderr=True), Counter[str]()
    async with connection.client() as client:
        steps = client.scale(prefill, decode, drain_timeout_s=drain_timeout_s, timeout=timeout_s)
        with console.status("asking the router") as status:
            async with aclosing(steps):
                async for step in steps:
                    if step.action in _BEGUN:
                        status.update(describe(step))
                    elif step.action in _DONE:
                        console.print(describe(step), highlight=False, markup=False, soft_wrap=True)
                        done[_DONE[step.action]] += 1
    return done


def describe(step: admin_pb2.ScaleResponse) -> str:
    """Return one line, such as "flipped prefill-0, now decode" or "draining decode-1"."""
    role = ROLES.get(step.role, "unknown")
    word = (_DONE | _BEGUN).get(step.action, "unknown")
    if step.action == admin_pb2.SCALE_ACTION_FLIPPED:
        return f"{word} {step.worker}, now {role}"
    return f"{word} {step.worker or f'a {role} worker'}"
