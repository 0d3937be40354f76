"""`pdserve explain`."""

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.requests import DEFAULT_ADDRESS, describe_finished
from cli.waterfall import waterfall_table
from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2

_PARTS = {
    "queue": "queue_us",
    "prefill": "prefill_us",
    "transfer": "transfer_us",
    "others": "interference_us",
    "decode": "decode_us",
    "total": "total_us",
}


def command(
    request_id: Annotated[str, typer.Argument(help="A request that this router routed lately")],
    address: Annotated[str, typer.Option(help="The router's gRPC address")] = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable")] = False,
) -> None:
    """Show why a request went where it did, and once it has ended, where its time went."""
    response = asyncio.run(_fetch(address, request_id))
    if as_json:
        print(json.dumps(to_dict(response), indent=2))
    else:
        _print_tables(response)


async def _fetch(address: str, request_id: str) -> inference_pb2.ExplainResponse:
    async with AsyncClient(address) as client:
        return await client.explain(request_id)


def to_dict(response: inference_pb2.ExplainResponse) -> dict[str, object]:
    """The stable JSON form of an explanation; the first route is the one taken."""
    return {
        "request_id": response.request_id,
        "policy": response.policy,
        "prompt_tokens": response.prompt_tokens,
        "expected_output_tokens": response.expected_output_tokens,
        "num_routes": response.num_routes,
        "routes": [_route_dict(route) for route in response.routes],
        "finished": [describe_finished(done) for done in response.finished],
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
    console.print(table)
    if response.finished:
        rows = [(f"choice {index}", done) for index, done in enumerate(response.finished)]
        console.print(waterfall_table(rows, console.width))
    else:
        console.print("It still runs, or did not end well.")
