"""Explanation of one request: as JSON, as rows and as tables."""

from collections.abc import Sequence

from rich.markup import escape

from cli.block_ledgers import ledger_dict, ledger_table
from cli.gantt import gantt_table
from cli.grid import Column, Grid, Row
from cli.output import print_grid, stdout_console
from cli.requests import describe_finished
from cli.timings import describe_spans, describe_steps
from cli.waterfall import waterfall_table
from pdserve.v1 import inference_pb2

_PARTS = {
    "queue": "queue_us",
    "prefill": "prefill_us",
    "transfer": "transfer_us",
    "others": "interference_us",
    "decode": "decode_us",
    "total": "total_us",
}
_COLUMNS = (
    Column("prompt on"),
    Column("decode on"),
    *(Column(name, rank=8 - place, is_number=True) for place, name in enumerate(_PARTS)),
    Column("cached", rank=9, is_number=True),
)


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
                "spans": describe_spans(done.timings),
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


def route_grid(response: inference_pb2.ExplainResponse) -> Grid:
    """Return one row per route, with the parts of its predicted cost."""
    rows = [
        Row(
            (
                route.prefill_worker or route.decode_worker,
                route.decode_worker,
                *(f"{getattr(route, name) / 1000:.1f}" for name in _PARTS.values()),
                str(route.cached_tokens),
            ),
            style="" if index else "bold",
        )
        for index, route in enumerate(response.routes)
    ]
    return Grid(_COLUMNS, rows, title="predicted cost in ms; the first route was taken")


def print_explanations(responses: Sequence[inference_pb2.ExplainResponse]) -> None:
    """Print each explanation; before those of several requests, one waterfall of all."""
    if len(responses) > 1:
        _print_together(responses)
    for response in responses:
        print_explanation(response)


def _print_together(responses: Sequence[inference_pb2.ExplainResponse]) -> None:
    """Print where the time of several requests went, on one scale; those that ended well."""
    rows = [
        (f"{response.request_id}#{index}" if index else response.request_id, done)
        for response in responses
        for index, done in enumerate(response.finished)
    ]
    console = stdout_console()
    if rows:
        print_grid(console, waterfall_table(rows, console.width))
        console.print()


def print_explanation(response: inference_pb2.ExplainResponse) -> None:
    """Print where a request went and why, its blocks, and where its time went."""
    console = stdout_console()
    console.print(
        f"[bold]{escape(response.request_id)}[/bold]  policy {response.policy}  prompt "
        f"{response.prompt_tokens} tokens  answer expected {response.expected_output_tokens}  "
        f"routes {response.num_routes}",
        highlight=False,
        soft_wrap=True,
    )
    print_grid(console, route_grid(response))
    console.print()
    if response.blocks:
        print_grid(console, ledger_table(response.blocks, "the blocks that it holds now"))
    if response.finished:
        rows = [(f"choice {index}", done) for index, done in enumerate(response.finished)]
        print_grid(console, waterfall_table(rows, console.width))
        for title, done in rows:
            console.print(f"\n{title}")
            print_grid(console, gantt_table(done, console.width))
    else:
        console.print("It still runs, or did not end well.")
