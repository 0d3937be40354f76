"""The command `pdserve status`."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.console import Console

from cli.connection import Connection
from cli.invariants import memory_dict, problems
from cli.output import (
    AsJson,
    AsPlain,
    check_forms,
    print_grid,
    print_json,
    print_plain,
    stdout_console,
)
from cli.workers import ROLES, STATES, worker_grid
from pdserve.v1 import admin_pb2, ledger_pb2


def command(
    connection: Connection,
    as_plain: AsPlain = False,
    as_json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check all invariants; exit code 1 if one does not hold")
    ] = False,
) -> None:
    """Show the router's and every worker's state."""
    check_forms(as_json=as_json, as_plain=as_plain)
    response, blocks = asyncio.run(_fetch(connection, with_blocks=as_json or check, check=check))
    wrong = problems(response, blocks) if check else []
    if as_json:
        print_json(to_dict(response, blocks) | ({"problems": wrong} if check else {}))
    elif as_plain:
        print_plain(worker_grid(response.workers))
    else:
        _print_tables(response)
    if check and not as_json:  # beside plain rows on stderr
        _print_check(Console(stderr=as_plain), wrong, len(blocks))
    raise typer.Exit(1 if wrong else 0)


async def _fetch(
    connection: Connection, *, with_blocks: bool, check: bool
) -> tuple[admin_pb2.StatusResponse, Sequence[ledger_pb2.WorkerBlocks]]:
    async with connection.client() as client:
        blocks = (await client.blocks(check=check)).workers if with_blocks else ()
        return await client.status(), blocks


def to_dict(
    response: admin_pb2.StatusResponse, blocks: Sequence[ledger_pb2.WorkerBlocks] = ()
) -> dict[str, object]:
    """Return the stable JSON form of a status and of the workers' ledgers."""
    router, totals = response.router, response.router.totals
    ledgers = {each.worker: each for each in blocks}
    return {
        "router": {
            "model": router.model,
            "requests_in_flight": router.requests_in_flight,
            "requests_queued": router.requests_queued,
            "totals": {
                "accepted": totals.accepted,
                "completed": totals.completed,
                "cancelled": totals.cancelled,
                "failed": totals.failed,
                "rejected": totals.rejected,
            },
            "adds_up": router.adds_up,
        },
        "workers": [_worker_dict(worker, ledgers.get(worker.name)) for worker in response.workers],
    }


def _worker_dict(
    worker: admin_pb2.WorkerStatus, blocks: ledger_pb2.WorkerBlocks | None
) -> dict[str, object]:
    has_load = worker.HasField("load")
    return {
        "role": ROLES.get(worker.role, "unknown"),
        "name": worker.name,
        "pid": worker.pid,
        "incarnation": worker.incarnation,
        "state": STATES.get(worker.state, "unknown"),
        "address": worker.address,
        "dtype": worker.dtype,
        "dtype_reason": worker.dtype_reason,
        "note": worker.note,
        "sequences": _sequences(worker.load) if has_load else None,
        "blocks": _blocks(worker.load) if has_load else None,
        "counters": _counters(worker.load) if has_load else None,
        **memory_dict(blocks, worker.load if has_load else None),
    }


def _sequences(load: admin_pb2.WorkerLoad) -> dict[str, int]:
    return {"running": load.num_running, "waiting": load.num_waiting}


def _blocks(load: admin_pb2.WorkerLoad) -> dict[str, int]:
    return {
        "total": load.blocks_total,
        "free": load.blocks_free,
        "cached": load.blocks_cached,
        "size_tokens": load.block_size,
    }


def _counters(load: admin_pb2.WorkerLoad) -> dict[str, int]:
    return {
        "steps": load.steps,
        "prefill_tokens": load.prefill_tokens,
        "output_tokens": load.output_tokens,
        "preemptions": load.preemptions,
        "kv_bytes": load.kv_bytes,
        "kv_rejected": load.kv_rejected,
        "prefill_fallbacks": load.prefill_fallbacks,
    }


def dtype_lines(workers: Iterable[admin_pb2.WorkerStatus]) -> list[str]:
    """Return the served dtype and its reason: one line, or more if workers have other reasons."""
    names: dict[str, list[str]] = {}
    for worker in workers:
        if worker.dtype:  # empty if the worker was never reached
            reason = f": {worker.dtype_reason}" if worker.dtype_reason else ""
            names.setdefault(f"{worker.dtype}{reason}", []).append(worker.name)
    if len(names) == 1:
        return list(names)
    return [f"{line} ({', '.join(of)})" for line, of in names.items()]


def _print_tables(response: admin_pb2.StatusResponse) -> None:
    console, router = stdout_console(), response.router
    totals = router.totals
    console.print(
        f"[bold]{router.model}[/bold]  in flight {router.requests_in_flight} "
        f"(queued {router.requests_queued})  completed {totals.completed}  "
        f"cancelled {totals.cancelled}  failed {totals.failed}  rejected {totals.rejected}",
        soft_wrap=True,
    )
    for line in dtype_lines(response.workers):
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
    print_grid(console, worker_grid(response.workers))
    for worker in response.workers:
        if worker.note:
            note = f"{worker.name}: {worker.note}"
            console.print(note, highlight=False, markup=False, soft_wrap=True)


def _print_check(console: Console, wrong: Sequence[str], num_workers: int) -> None:
    for line in wrong:
        console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    if not wrong:
        console.print(f"the account adds up, and {num_workers} workers' memory is as it must be")
