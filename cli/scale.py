"""The command `pdserve scale`."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console

from cli.connection import Connection
from cli.drain import ChangeTimeout, DrainTimeout, telling_of_timeouts
from cli.grid import Column, Grid, Row
from cli.output import AsJson, AsPlain, check_forms, print_json, print_plain
from cli.workers import ROLES
from pdserve.client import AsyncClient
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


@dataclass(frozen=True, slots=True)
class Step:
    """Change of a role by a number of workers, which ends at a least and a greatest number."""

    by: int
    least: int
    most: int

    def target(self, num_workers: int) -> int:
        """Return the wanted number; a limit that is passed already stops the step, and undoes nothing."""
        if self.by < 0:
            return max(num_workers + self.by, min(self.least, num_workers))
        return min(num_workers + self.by, max(self.most, num_workers))


Wish = int | Step | None  # a number of workers, a change of it, or as now
By = Annotated[int | None, typer.Option(help="So many more of them; below 0: fewer")]


def command(
    connection: Connection,
    prefill: Annotated[
        int | None, typer.Option(min=0, max=1024, help="Prefill workers; unset: as now")
    ] = None,
    decode: Annotated[
        int | None, typer.Option(min=0, max=256, help="Decode workers, at least 1; unset: as now")
    ] = None,
    prefill_by: By = None,
    decode_by: By = None,
    least: Annotated[
        int, typer.Option("--min", min=0, help="Where --prefill-by or --decode-by stops")
    ] = 0,
    most: Annotated[
        int, typer.Option("--max", min=1, help="Where --prefill-by or --decode-by stops")
    ] = 256,
    drain_timeout: DrainTimeout = 300.0,
    timeout: ChangeTimeout = None,
    as_plain: AsPlain = False,
    as_json: AsJson = False,
) -> None:
    """Change how many workers there are, while they serve. Flips roles where it can."""
    given = {
        admin_pb2.WORKER_ROLE_PREFILL: _wish("prefill", prefill, prefill_by, least, most),
        admin_pb2.WORKER_ROLE_DECODE: _wish("decode", decode, decode_by, least, most),
    }
    if all(wish is None for wish in given.values()):
        raise SetupError("neither --prefill nor --decode is given", "give one or both")
    check_forms(as_json=as_json, as_plain=as_plain)
    with telling_of_timeouts():
        done = asyncio.run(_scale(connection, given, drain_timeout, timeout))
    counts = {word: done[word] for word in _DONE.values()}
    if as_json:
        print_json(counts)
    elif as_plain:
        rows = [Row((word, str(count))) for word, count in counts.items()]
        print_plain(Grid((Column("action"), Column("workers")), rows))
    else:
        parts = [f"{count} {word}" for word, count in counts.items() if count]
        print(", ".join(parts) or "nothing to do")


def _wish(name: str, number: int | None, by: int | None, least: int, most: int) -> Wish:
    """Return what is wanted of a role; None: as now. Raises SetupError."""
    if number is not None and by is not None:
        raise SetupError(f"--{name} and --{name}-by exclude each other", "give one of them")
    return number if by is None else Step(by, least, most)


async def _scale(
    connection: Connection,
    wishes: Mapping["admin_pb2.WorkerRole.ValueType", Wish],
    drain_timeout_s: float,
    timeout_s: float | None,
) -> Counter[str]:
    """Report progress on stderr; return how often each action was taken."""
    console, done = Console(stderr=True), Counter[str]()
    async with connection.client() as client:
        prefill, decode = await _numbers(client, wishes)
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


async def _numbers(
    client: AsyncClient, wishes: Mapping["admin_pb2.WorkerRole.ValueType", Wish]
) -> list[int | None]:
    """Return the wanted numbers; the router is asked for the present ones only if need be."""
    if not any(isinstance(wish, Step) for wish in wishes.values()):
        return [wish if isinstance(wish, int) else None for wish in wishes.values()]
    retired = admin_pb2.WORKER_STATE_RETIRED
    there = Counter(w.role for w in (await client.status()).workers if w.state != retired)
    return [
        wish.target(there[role]) if isinstance(wish, Step) else wish
        for role, wish in wishes.items()
    ]


def describe(step: admin_pb2.ScaleResponse) -> str:
    """Return one line, such as "flipped prefill-0, now decode" or "draining decode-1"."""
    role = ROLES.get(step.role, "unknown")
    word = (_DONE | _BEGUN).get(step.action, "unknown")
    if step.action == admin_pb2.SCALE_ACTION_FLIPPED:
        return f"{word} {step.worker}, now {role}"
    return f"{word} {step.worker or f'a {role} worker'}"
