"""The command `pdserve chat`."""

import asyncio
import sys
from typing import Annotated

import typer
from rich.console import Console

from cli.connection import Connection
from cli.requests import ask
from cli.sampling import DEFAULT_MAX_TOKENS, Temperature
from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2

_HELP = "type a message; /new starts over, /quit or Ctrl-D leaves"


def command(
    connection: Connection,
    system: Annotated[str | None, typer.Option(help="System message")] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=2**31 - 1, help="Most tokens of an answer")
    ] = DEFAULT_MAX_TOKENS,
    temperature: Temperature = None,
) -> None:
    """Talk with the served model."""
    sampling = inference_pb2.SamplingParams(temperature=temperature, max_tokens=max_tokens)
    opening = [("system", system)] if system else []
    asyncio.run(_converse(connection, opening, sampling))


async def _converse(
    connection: Connection, opening: list[tuple[str, str]], sampling: inference_pb2.SamplingParams
) -> None:
    console = Console()
    console.print(f"[dim]{_HELP}[/dim]")
    turns = list(opening)
    async with connection.client() as client:
        while (line := await asyncio.to_thread(_read_line)) is not None:
            if line == "/quit":
                return
            if line == "/new":
                turns = list(opening)
            elif line:
                turns.append(("user", line))
                try:
                    answer = await ask(client, turns, sampling, _write)
                except InvalidRequestError as error:  # for example, the context is full
                    turns.pop()
                    console.print(f"[red]{error}[/red] [dim](/new starts over)[/dim]")
                    continue
                turns.append(("assistant", answer.text))
                print("\n")


def _read_line() -> str | None:
    try:
        return input("you> ").strip()
    except EOFError:
        return None


def _write(text: str, _: int) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
