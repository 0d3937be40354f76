"""The command `pdserve top`: the numbers of `pdserve status` and their rates, live."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from cli.connection import Connection
from cli.output import AsJson, AsPlain, check_forms, print_json, print_plain, stdout_console
from cli.rates import Frame, Poll
from cli.top_forms import frame_dict, frame_grid
from cli.top_view import view
from pdserve.client import AsyncClient
from pdserve.errors import RequestTimeoutError, SetupError, UnavailableError

_OTHER_LINES = 9  # of a screen: those above and below the workers, at 80 columns


def command(
    connection: Connection,
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame, of two polls, and end")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds from one poll to the next")
    ] = 1.0,
    as_plain: AsPlain = False,
    as_json: AsJson = False,
) -> None:
    """Watch requests, workers, KV blocks and tokens per second. Ctrl-C ends it."""
    check_forms(as_json=as_json, as_plain=as_plain)
    if (as_json or as_plain) and not once:
        raise SetupError("--json and --plain print one frame", "give --once too")
    if once:
        frame = asyncio.run(_fetch_one(connection, interval))
        if as_json:
            print_json(frame_dict(frame))
        elif as_plain:
            print_plain(frame_grid(frame))
        else:
            stdout_console().print(view(frame), soft_wrap=True, highlight=False)
    elif sys.stdout.isatty():
        asyncio.run(_watch(connection, interval))
    else:
        raise SetupError("`pdserve top` needs a terminal", "--once prints one frame in a pipe")


async def _fetch_one(connection: Connection, interval_s: float) -> Frame:
    """Return the first frame of two polls. Raises RequestError."""
    async with connection.client() as client:
        async for frame in frames(client, interval_s):
            if frame.problem is not None:
                raise frame.problem
            if frame.before is not None:
                return frame
    raise RuntimeError("frames never end")


async def _watch(connection: Connection, interval_s: float) -> None:
    """Show frames until SIGINT or SIGTERM, and leave the terminal as it was."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None:
        raise RuntimeError("a coroutine runs in a task")
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    console = Console()
    with suppress(asyncio.CancelledError):
        async with connection.client() as client:
            polled = frames(client, interval_s)
            first = await anext(polled)  # before the screen is taken: it may raise
            with Live(console=console, screen=True, auto_refresh=False) as live:
                _show(live, first)
                async for frame in polled:
                    _show(live, frame)


def _show(live: Live, frame: Frame) -> None:
    max_workers = max(live.console.height - _OTHER_LINES, 1)
    live.update(view(frame, max_workers), refresh=True)


async def frames(client: AsyncClient, interval_s: float) -> AsyncIterator[Frame]:
    """Yield a frame at once and then one per interval. Raises RequestError if the first poll fails.

    Where the router does not answer later, the frame before comes again, with the problem.
    """
    frame = Frame(await _poll(client))
    while True:
        yield frame
        await asyncio.sleep(interval_s)
        try:
            frame = Frame(await _poll(client), before=frame.now)
        except (UnavailableError, RequestTimeoutError) as error:
            frame = Frame(frame.now, before=frame.before, problem=error)


async def _poll(client: AsyncClient) -> Poll:
    status = await client.status()
    return Poll(time.monotonic(), status)
