"""Forms of a frame of `pdserve top` for programs: JSON, and plain rows of workers."""

from dataclasses import asdict

from cli.grid import Column, Grid, Row
from cli.rates import Frame, router_rates, worker_rates
from cli.status import to_dict
from cli.workers import ROLES, STATES

_COLUMNS = tuple(
    map(
        Column,
        (
            "worker",
            "role",
            "state",
            "running",
            "waiting",
            "blocks used",
            "prompt tok/s",
            "output tok/s",
        ),
    )
)


def frame_dict(frame: Frame) -> dict[str, object]:
    """Return the JSON form of `pdserve status`, with the rates a second as two more keys."""
    names = [worker.name for worker in frame.now.status.workers]
    return {
        **to_dict(frame.now.status),
        "requests_per_s": asdict(router_rates(frame)),
        "tokens_per_s": {
            name: asdict(rates) for name, rates in zip(names, worker_rates(frame), strict=True)
        },
    }


def frame_grid(frame: Frame) -> Grid:
    """Return one row per worker; blocks used are a share, 0 to 1, and an unknown cell is empty."""
    rows = []
    for worker, rates in zip(frame.now.status.workers, worker_rates(frame), strict=True):
        load = worker.load if worker.HasField("load") else None
        share = 1 - load.blocks_free / load.blocks_total if load and load.blocks_total else None
        rows.append(
            Row(
                (
                    worker.name,
                    ROLES.get(worker.role, "unknown"),
                    STATES.get(worker.state, "unknown"),
                    "" if load is None else str(load.num_running),
                    "" if load is None else str(load.num_waiting),
                    _number(share, 3),
                    _number(rates.prefill_tokens, 1),
                    _number(rates.output_tokens, 1),
                )
            )
        )
    return Grid(_COLUMNS, rows)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
