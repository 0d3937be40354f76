"""Block ledgers of workers (which request holds which KV blocks), as a table and as JSON."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.text import Text

from cli.grid import Column, Grid, Row
from pdserve.v1 import ledger_pb2

_STATES = {
    number: name.removeprefix("HOLDER_STATE_").lower()
    for name, number in ledger_pb2.HolderState.items()
}


_COLUMNS = (
    Column("worker"),
    Column("request"),
    Column("state", wraps=True),
    Column("blocks", rank=1, is_number=True),
    Column("shared", rank=4, is_number=True),
    Column("KV here / tokens", rank=3, is_number=True),
    Column("host MiB", rank=5, is_number=True),
    Column("age s", rank=2, is_number=True),
)


def ledger_table(workers: Sequence[ledger_pb2.WorkerBlocks], title: str) -> Grid:
    """Return one row per request on a worker, largest holder first, then one for its pool."""
    rows: list[Row] = []
    for blocks in workers:
        if blocks.problem:
            problem = Text(blocks.problem, style="red")
            rows.append(Row((blocks.worker, "", problem, *[""] * 5), ends_section=True))
        else:
            rows += _rows(blocks.worker, blocks.ledger)
    return Grid(_COLUMNS, rows, title=title, box=box.SIMPLE_HEAD)


def _rows(worker: str, ledger: ledger_pb2.BlockLedger) -> Iterator[Row]:
    for holder in ledger.holders:
        cells = (
            worker,
            holder.request_id,
            _STATES.get(holder.state, "unknown"),
            str(holder.num_blocks),
            str(holder.num_shared_blocks),
            f"{holder.num_computed_tokens} / {holder.num_tokens}",
            f"{holder.host_bytes / 2**20:.1f}" if holder.host_bytes else "",
            f"{holder.age_us / 1e6:.1f}",
        )
        yield Row(cells)
    if omitted := ledger.num_holders - len(ledger.holders):
        yield Row((worker, "", f"{omitted} more", *[""] * 5))
    held = ledger.blocks_total - ledger.blocks_free
    pool = Text(
        f"{ledger.blocks_total} in all, {ledger.blocks_free} free, {ledger.blocks_cached} cached",
        style="dim",
    )
    if leaked := ledger.blocks_unaccounted:
        pool.append(f", {leaked} leaked", style="red")
    yield Row((worker, "", pool, str(held), *[""] * 4), ends_section=True)


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
