"""Picture of `pdserve top`: the router's numbers, and one row per worker."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from cli.grid import Column, Grid, Row
from cli.rates import Frame, WorkerRates, router_rates, worker_rates
from cli.workers import ROLES, state_text
from pdserve.v1 import admin_pb2

_BAR = 10  # characters
_FULL, _NEARLY = 0.9, 0.7  # shares of a worker's blocks
_COLUMNS = (
    Column("worker"),
    Column("role", rank=5),
    Column("state"),
    Column("running", rank=2, is_number=True),
    Column("waiting", rank=3, is_number=True),
    Column("blocks used", rank=4),
    Column("prompt tok/s", rank=6, is_number=True),
    Column("output tok/s", rank=1, is_number=True),
)


def view(frame: Frame, max_workers: int | None = None) -> RenderableType:
    """Return the picture; with more workers than `max_workers`, the others are counted."""
    router, rates = frame.now.status.router, router_rates(frame)
    workers = worker_rates(frame)
    totals = router.totals
    head = Text.assemble((router.model, "bold"), f"  {len(workers)} workers")
    requests = (
        f"requests  {router.requests_in_flight} in flight, {router.requests_queued} queued   "
        f"{totals.completed} completed ({_per_s(rates.completed)}), "
        f"{totals.rejected} refused ({_per_s(rates.rejected)}), "
        f"{totals.failed} failed ({_per_s(rates.failed)}), {totals.cancelled} cancelled"
    )
    tokens = (
        f"tokens/s  {_total(each.output_tokens for each in workers)} output, "
        f"{_total(each.prefill_tokens for each in workers)} prompt"
    )
    parts: list[RenderableType] = [head, Text(requests), Text(tokens), Text("")]
    if frame.problem is not None:
        parts.insert(1, Text(f"no news: {frame.problem.message}", style="red"))
    pairs = list(zip(frame.now.status.workers, workers, strict=True))
    rows = [_row(worker, rate) for worker, rate in pairs[:max_workers]]
    parts.append(Grid(_COLUMNS, rows))
    if omitted := len(pairs) - len(rows):
        parts.append(Text(f"and {omitted} more; a higher terminal shows them", style="dim"))
    return Group(*parts)


def _row(worker: admin_pb2.WorkerStatus, rates: WorkerRates) -> Row:
    load, has_load = worker.load, worker.HasField("load")
    return Row(
        (
            worker.name,
            ROLES.get(worker.role, "unknown"),
            state_text(worker),
            str(load.num_running) if has_load else "-",
            str(load.num_waiting) if has_load else "-",
            blocks_bar(load) if has_load else "-",
            _number(rates.prefill_tokens),
            _number(rates.output_tokens),
        )
    )


def blocks_bar(load: admin_pb2.WorkerLoad) -> Text:
    """Return a bar of the blocks that are not free, and their share."""
    share = 1 - load.blocks_free / load.blocks_total if load.blocks_total else 0.0
    filled = round(share * _BAR)
    style = "red" if share >= _FULL else "yellow" if share >= _NEARLY else "green"
    bar = Text("█" * filled, style=style)
    bar.append("░" * (_BAR - filled), style="dim")
    return bar.append(f" {share:4.0%}", style="default")


def _total(rates: Iterable[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    return _number(sum(known)) if known else "-"


def _number(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def _per_s(rate: float | None) -> str:
    return f"{_number(rate)}/s"
