"""Workers of a status as rows: role, state and load."""

from collections.abc import Iterable

from rich import box
from rich.text import Text

from cli.grid import Column, Grid, Row
from pdserve.v1 import admin_pb2

ROLES = {admin_pb2.WORKER_ROLE_PREFILL: "prefill", admin_pb2.WORKER_ROLE_DECODE: "decode"}
STATES = {
    admin_pb2.WORKER_STATE_READY: "ready",
    admin_pb2.WORKER_STATE_STALLED: "stalled",
    admin_pb2.WORKER_STATE_UNREACHABLE: "unreachable",
    admin_pb2.WORKER_STATE_DRAINING: "draining",
    admin_pb2.WORKER_STATE_RESTARTING: "restarting",
    admin_pb2.WORKER_STATE_RETIRED: "retired",
}

_COLORS = {"ready": "green", "draining": "yellow", "restarting": "yellow"}
_COLUMNS = (
    Column("worker"),
    Column("role", rank=4),
    Column("pid", rank=5),
    Column("state"),
    Column("running", rank=2, is_number=True),
    Column("waiting", rank=3, is_number=True),
    Column("blocks free/total", rank=1, is_number=True),
    Column("prefill tokens", rank=7, is_number=True),
    Column("output tokens", rank=6, is_number=True),
)


def worker_grid(workers: Iterable[admin_pb2.WorkerStatus]) -> Grid:
    """Return one row per worker."""
    rows = [
        Row(
            (
                worker.name,
                ROLES.get(worker.role, "unknown"),
                str(worker.pid),
                state_text(worker),
                *_load_cells(worker),
            )
        )
        for worker in workers
    ]
    return Grid(_COLUMNS, rows, box=box.SIMPLE)


def state_text(worker: admin_pb2.WorkerStatus) -> Text:
    """Return a worker's state in its colour."""
    state = STATES.get(worker.state, "unknown")
    return Text(state, style=_COLORS.get(state, "red"))


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
