"""The command `pdserve explain`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cli.block_ledgers import ledger_dict, ledger_table
from cli.connection import Connection
from cli.explanation import print_explanations, route_grid, to_dict
from cli.grid import plain_lines
from cli.output import (
    AsJson,
    AsPlain,
    check_forms,
    print_grid,
    print_json,
    print_plain,
    stdout_console,
)
from cli.trace import write_trace
from pdserve.errors import SetupError
from pdserve.v1 import admin_pb2, inference_pb2


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
    as_plain: AsPlain = False,
    as_json: AsJson = False,
) -> None:
    """Show why requests went where they did, which blocks they hold, and where their time went."""
    check_forms(as_json=as_json, as_plain=as_plain)
    if bool(request_ids) == blocks:
        raise SetupError("give either REQUEST_IDS or --blocks")
    if blocks and trace:
        raise SetupError("--trace needs REQUEST_IDS")
    if blocks:
        _show_blocks(asyncio.run(_fetch_blocks(connection)), as_json=as_json, as_plain=as_plain)
        return
    responses = asyncio.run(_fetch(connection, list(dict.fromkeys(request_ids or ()))))
    if trace:
        write_trace(trace, responses)
    if as_json:
        found = [to_dict(response) for response in responses]
        print_json(found[0] if len(found) == 1 else found)
        return
    if as_plain:
        for response in responses:
            for line in plain_lines(route_grid(response)):
                print(f"{response.request_id}\t{line}")
        return
    print_explanations(responses)
    if trace:
        print(f"Open {trace} at https://ui.perfetto.dev")


async def _fetch(
    connection: Connection, request_ids: list[str]
) -> list[inference_pb2.ExplainResponse]:
    async with connection.client() as client:
        return await asyncio.gather(*map(client.explain, request_ids))


async def _fetch_blocks(connection: Connection) -> admin_pb2.BlocksResponse:
    async with connection.client() as client:
        return await client.blocks()


def _show_blocks(response: admin_pb2.BlocksResponse, *, as_json: bool, as_plain: bool) -> None:
    grid = ledger_table(response.workers, "who holds which KV blocks")
    if as_json:
        print_json({"workers": [ledger_dict(blocks) for blocks in response.workers]})
    elif as_plain:
        print_plain(grid)
    else:
        print_grid(stdout_console(), grid)
