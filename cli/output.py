"""Forms of a command's output: tables for people, JSON and plain lines for programs."""

import json
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from cli.grid import Grid, plain_lines
from pdserve.errors import SetupError

_PIPE_WIDTH = 10_000  # no line breaks for programs, and every column

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable")]
AsPlain = Annotated[bool, typer.Option("--plain", help="One line a row, columns separated by tabs")]


def check_forms(*, as_json: bool, as_plain: bool) -> None:
    """Raise SetupError if two forms are asked for."""
    if as_json and as_plain:
        raise SetupError("--json and --plain exclude each other", "give one")


def stdout_console() -> Console:
    """Return a console on stdout, as wide as the terminal or COLUMNS; in a pipe as wide as need be."""
    is_fitted = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(width=None if is_fitted else _PIPE_WIDTH)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2))


def print_plain(grid: Grid) -> None:
    """Print one line per row, without colour."""
    for line in plain_lines(grid):
        print(line)


def print_grid(console: Console, grid: Grid) -> None:
    """Print a grid; the terminal itself breaks lines that nothing makes narrow enough."""
    console.print(grid, soft_wrap=True)
