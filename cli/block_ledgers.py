"""Block ledgers of workers (which request holds which KV blocks), as a table and as JSON."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from pdserve.v1 import ledger_pb2

_STATES = {
    number: name.removeprefix("HOLDER_STATE_").lower()
    for name, number in ledger_pb2.HolderState.items()
}


def ledger_table(workers: Sequence[ledger_pb2.WorkerBlocks], title: str) -> Table:
    """Return one row per request on a worker, largest holder first, then one for its pool."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="")
    for name in ("worker", "request", "state"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("blocks", "shared", "KV here / tokens", "host MiB", "age s"):
        table.add_column(name, justify="right", no_wrap=True)
    for blocks in workers:
        if blocks.problem:
            table.add_row(blocks.worker, "", f"[red]{blocks.problem}[/red]", end_section=True)
        else:
            _add_rows(table, blocks.worker, blocks.ledger)
    return table


def _add_rows(table: Table, worker: str, ledger: ledger_pb2.BlockLedger) -> None:
    for holder in ledger.holders:
        table.add_row(
            worker,
            holder.request_id,
            _STATES.get(holder.state, "unknown"),
            str(holder.num_blocks),
            str(holder.num_shared_blocks),
            f"{holder.num_computed_tokens} / {holder.num_tokens}",
            f"{holder.host_bytes / 2**20:.1f}" if holder.host_bytes else "",
            f"{holder.age_us / 1e6:.1f}",
        )
    if omitted := ledger.num_holders - len(ledger.holders):
        table.add_row(worker, f"{omitted} more")
    held = ledger.blocks_total - ledger.blocks_free
    pool = f"{ledger.blocks_total} in all, {ledger.blocks_free} free, {ledger.blocks_cached} cached"
    leaked = ledger.blocks_unaccounted
    problem = f"[red]{leaked} leaked[/red]" if leaked else ""
    table.add_row(worker, f"[dim]{pool}[/dim]", problem, str(held), end_section=True)


def ledger_dict(blocks: ledger_pb2.WorkerBlocks) -> dict[str, object]:
    """Return the stable JSON form of one worker's answer."""
    if blocks.problem:
        return {"worker": blocks.worker, "problem": blocks.problem}
    ledger = blocks.ledger
    return {
        "worker": blocks.worker,
        "blocks": {
            "total": ledger.blocks_total,
            "free": ledger.blocks_free,
            "cached": ledger.blocks_cached,
            "unaccounted": ledger.blocks_unaccounted,
            "size_tokens": ledger.block_size,
        },
        "num_holders": ledger.num_holders,
        "holders": [
            {
                "request_id": holder.request_id,
                "state": _STATES.get(holder.state, "unknown"),
                "num_blocks": holder.num_blocks,
                "num_shared_blocks": holder.num_shared_blocks,
                "num_tokens": holder.num_tokens,
                "num_computed_tokens": holder.num_computed_tokens,
                "host_bytes": holder.host_bytes,
                "age_us": holder.age_us,
            }
            for holder in ledger.holders
        ],
    }
