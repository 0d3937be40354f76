"""The command `pdserve drain`."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from cli.connection import Connection
from pdserve.errors import RequestTimeoutError

ChangeTimeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0.001,
        help="Longest wait for the whole change, seconds; unset: 15 min more",
    ),
]
DrainTimeout = Annotated[
    float, typer.Option(min=0.001, max=86_400, help="Longest wait for running work, seconds")
]


def command(
    connection: Connection,
    worker: Annotated[str, typer.Argument(help="Its name in `pdserve status`")],
    drain_timeout: DrainTimeout = 300.0,
    timeout: ChangeTimeout = None,
) -> None:
    """Let one worker end its work, then stop it. Nothing that runs is lost."""
    with telling_of_timeouts():
        asyncio.run(_drain(connection, worker, drain_timeout, timeout))
    print(f"stopped {worker}")


@contextmanager
def telling_of_timeouts() -> Iterator[None]:
    """Say, where a change was not done in time, that it may still be."""
    try:
        yield
    except RequestTimeoutError as error:
        raise RequestTimeoutError(
            f"{error.message}; what has begun may go on, `pdserve status` shows it"
        ) from error


async def _drain(
    connection: Connection, worker: str, drain_timeout_s: float, timeout_s: float | None
) -> None:
    async with connection.client() as client:
        with Console(stderr=True).status(f"draining {worker}"):
            await client.drain(worker, timeout_s=drain_timeout_s, timeout=timeout_s)
