"""The command `pdserve drain`."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from cli.connection import Connection

DrainTimeout = Annotated[
    float, typer.Option(min=0.001, max=86_400, help="Longest wait for running work, seconds")
]


def command(
    connection: Connection,
    worker: Annotated[str, typer.Argument(help="Its name in `pdserve status`")],
    drain_timeout: DrainTimeout = 300.0,
) -> None:
    """Let one worker end its work, then stop it. Nothing that runs is lost."""
    asyncio.run(_drain(connection, worker, drain_timeout))
    print(f"stopped {worker}")


async def _drain(connection: Connection, worker: str, timeout_s: float) -> None:
    async with connection.client() as client:
        with Console(stderr=True).status(f"draining {worker}"):
            await client.drain(worker, timeout_s=timeout_s)
