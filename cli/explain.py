"""The command `pdserve explain`."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.block_ledgers import ledger_dict, ledger_table
from cli.connection import Connection
from cli.gantt import gantt_table
from cli.requests import describe_finished
from cli.timings import describe_steps
from cli.trace import write_trace
from cli.waterfall import waterfall_table
from pdserve.errors import SetupError
from pdserve.v1 import admin_pb2, inference_pb2

_PARTS = {
    "queue": "queue_us",
    "prefill": "prefill_us",
    "transfer": "transfer_us",
    "others": "interference_us",
    "decode": "decode_us",
    "total": "total_us",
}


def command(
    connection: Connection,
    request_ids: Annotated[
        list[str] | None, typer.Argument(help="Requests that this router routed lately")
    ] = None,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Who holds which KV blocks on all workers")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write the requests as a trace for ui.perfetto.dev")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable")] = False,
) -> None:
    """Show why requests went where they did, which blocks they hold, and where their time went."""
    if bool(request_ids) == blocks:
        raise SetupError("give either REQUEST_IDS or --blocks")
    if blocks and trace:
        raise SetupError("--trace needs REQUEST_IDS")
    if blocks:
        _show_blocks(asyncio.run(_fetch_blocks(connection)), as_json=as_json)
        return
    responses = asyncio.run(_fetch(connection, list(dict.fromkeys(request_ids or ()))))
    if trace:
        write_trace(trace, responses)
    if as_json:
        found = [to_dict(response) for response in responses]
        print(json.dumps(found[0] if len(found) == 1 else found, indent=2))
        return
    for response in responses:
        _print_tables(response)
    if trace:
        Console().print(f"Open {trace} at https://ui.perfetto.dev", highlight=False)


async def _fetch(
    connection: Connection, request_ids: list[str]
) -> list[inference_pb2.ExplainResponse]:
    async with connection.client() as client:
        return await asyncio.gather(*map(client.explain, request_ids))


async def _fetch_blocks(connection: Connection) -> admin_pb2.BlocksResponse:
    async with connection.client() as client:
        return await client.blocks()


def _show_blocks(response: admin_pb2.BlocksResponse, *, as_json: bool) -> None:
    if as_json:
        workers = [ledger_dict(blocks) for blocks in response.workers]
        print(json.dumps({"workers": workers}, indent=2))
    else:
        Console().print(ledger_table(response.workers, "who holds which KV blocks"))


def to_dict(response: inference_pb2.ExplainResponse) -> dict[str, object]:
    """Return the stable JSON form of an explanation; the first route is the one taken."""
    return {
        "request_id": response.request_id,
        "policy": response.policy,
        "prompt_tokens": response.prompt_tokens,
        "expected_output_tokens": response.expected_output_tokens,
        "num_routes": response.num_routes,
        "routes": [_route_dict(route) for route in response.routes],
        "arrival_us": response.arrival_us,
        "blocks": [ledger_dict(blocks) for blocks in response.blocks],
        "finished": [
            {
                **describe_finished(done),
                "decode_steps": describe_steps(done.timings.decode_steps),
            }
            for done in response.finished
        ],
    }


def _route_dict(route: inference_pb2.RouteCost) -> dict[str, object]:
    return {
        "prefill_worker": route.prefill_worker,
        "decode_worker": route.decode_worker,
        **{name: getattr(route, name) for name in _PARTS.values()},
        "cached_tokens": route.cached_tokens,
        "shipped_tokens": route.shipped_tokens,
    }


def _print_tables(response: inference_pb2.ExplainResponse) -> None:
    console = Console()
    console.print(
        f"[bold]{response.request_id}[/bold]  policy {response.policy}  prompt "
        f"{response.prompt_tokens} tokens  answer expected {response.expected_output_tokens}  "
        f"routes {response.num_routes}",
        highlight=False,
    )
    title = "predicted cost in ms; the first route was taken"
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in ("prompt on", "decode on"):
        table.add_column(name, no_wrap=True)
    for name in (*_PARTS, "cached"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, route in enumerate(response.routes):
        table.add_row(
            route.prefill_worker or route.decode_worker,
            route.decode_worker,
            *(f"{getattr(route, name) / 1000:.1f}" for name in _PARTS.values()),
            str(route.cached_tokens),
            style="" if index else "bold",
        )
    console.print(table, "")
    if response.blocks:
        console.print(ledger_table(response.blocks, "the blocks that it holds now"))
    if response.finished:
        rows = [(f"choice {index}", done) for index, done in enumerate(response.finished)]
        console.print(waterfall_table(rows, console.width), "")
        for title, done in rows:
            console.print(title, gantt_table(done, console.width))
    else:
        console.print("It still runs, or did not end well.")
