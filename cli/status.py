"""The command `pdserve status`."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cli.connection import Connection
from cli.invariants import memory_dict, problems
from pdserve.v1 import admin_pb2, ledger_pb2

ROLES = {admin_pb2.WORKER_ROLE_PREFILL: "prefill", admin_pb2.WORKER_ROLE_DECODE: "decode"}
_STATES = {
    admin_pb2.WORKER_STATE_READY: "ready",
    admin_pb2.WORKER_STATE_STALLED: "stalled",
    admin_pb2.WORKER_STATE_UNREACHABLE: "unreachable",
    admin_pb2.WORKER_STATE_DRAINING: "draining",
    admin_pb2.WORKER_STATE_RESTARTING: "restarting",
    admin_pb2.WORKER_STATE_RETIRED: "retired",
}

_COLORS = {"ready": "green", "draining": "yellow", "restarting": "yellow"}


def command(
    connection: Connection,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check all invariants; exit code 1 if one does not hold")
    ] = False,
) -> None:
    """Show the router's and every worker's state."""
    response, blocks = asyncio.run(_fetch(connection, with_blocks=as_json or check, check=check))
    wrong = problems(response, blocks) if check else []
    if as_json:
        found = to_dict(response, blocks) | ({"problems": wrong} if check else {})
        print(json.dumps(found, indent=2))
    else:
        _print_tables(response)
        _print_check(wrong, len(blocks)) if check else None
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
        "state": _STATES.get(worker.state, "unknown"),
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
    console, router = Console(), response.router
    totals = router.totals
    console.print(
        f"[bold]{router.model}[/bold]  in flight {router.requests_in_flight} "
        f"(queued {router.requests_queued})  completed {totals.completed}  "
        f"cancelled {totals.cancelled}  failed {totals.failed}  rejected {totals.rejected}"
    )
    for line in dtype_lines(response.workers):
        console.print(line, style="dim", highlight=False)
    table = Table("worker", "role", "pid", "state", box=box.SIMPLE)
    for column in ("running", "waiting", "blocks free/total", "prefill tokens", "output tokens"):
        table.add_column(column, justify="right")
    for worker in response.workers:
        state = _STATES.get(worker.state, "unknown")
        color = _COLORS.get(state, "red")
        table.add_row(
            worker.name,
            ROLES.get(worker.role, "unknown"),
            str(worker.pid),
            f"[{color}]{state}[/{color}]",
            *_load_cells(worker),
        )
    console.print(table)
    for worker in response.workers:
        if worker.note:
            console.print(f"{worker.name}: {worker.note}", highlight=False, markup=False)


def _print_check(wrong: Sequence[str], num_workers: int) -> None:
    console = Console()
    for line in wrong:
        console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    if not wrong:
        console.print(f"the account adds up, and {num_workers} workers' memory is as it must be")


def _load_cells(worker: admin_pb2.WorkerStatus) -> list[str]:
    """Return the cells of the load: dashes while the router has no connection to the worker."""
    if not worker.HasField("load"):
        return ["-"] * 5
    load = worker.load
    return [
        str(load.num_running),
        str(load.num_waiting),
        f"{load.blocks_free}/{load.blocks_total}",
        str(load.prefill_tokens),
        str(load.output_tokens),
    ]
