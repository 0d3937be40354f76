"""The commands `pdserve config show` and `pdserve config schema`."""

import json
from pathlib import Path
from typing import Annotated

import typer
import typer.main

from cli import serve
from cli.grid import Column, Grid, Row
from cli.output import (
    AsJson,
    AsPlain,
    check_forms,
    print_grid,
    print_json,
    print_plain,
    stdout_console,
)
from cli.settings import Values, find_origins, get_setting, load_config
from common.config import ServeConfig

app = typer.Typer(no_args_is_help=True)

_SECRET_WORDS = {"token", "secret", "password", "key"}
_MASK = "********"


@app.command(
    "show",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Takes every argument of `pdserve serve`, and starts nothing.",
)
def show(
    context: typer.Context,
    effective: Annotated[
        bool, typer.Option("--effective", help="Also what nobody set, with its default")
    ] = False,
    as_plain: AsPlain = False,
    as_json: AsJson = False,
) -> None:
    """Show the settings of `pdserve serve` with the same arguments, and the origin of each."""
    check_forms(as_json=as_json, as_plain=as_plain)
    file, flags, from_env = _parse_as_serve(context.args)
    config = load_config(file, flags)
    origins = find_origins(file, flags) | dict.fromkeys(from_env, "env")
    rows = {
        key: {"value": shown(key, get_setting(config, key)), "from": origin}
        for key, origin in origins.items()
        if effective or origin != "default"
    }
    cells = [
        Row((key, "unset" if row["value"] is None else str(row["value"]), str(row["from"])))
        for key, row in rows.items()
    ]
    grid = Grid((Column("setting"), Column("value"), Column("from", rank=1)), cells)
    if as_json:
        print_json(rows)
    elif as_plain:
        print_plain(grid)
    else:
        print_grid(stdout_console(), grid)


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of the settings, for editors and for checks of a file."""
    print(json.dumps(ServeConfig.model_json_schema(), indent=2))


def shown(key: str, value: object) -> object:
    """Return a setting's value for display: secrets that are set are masked."""
    is_secret = key.rpartition(".")[2].rpartition("_")[2] in _SECRET_WORDS
    if is_secret and value is not None:
        return _MASK
    return value if isinstance(value, str | int | float | None) else str(value)


def _parse_as_serve(arguments: list[str]) -> tuple[Path | None, Values, list[str]]:
    """Parse arguments as `pdserve serve` does.

    Returns its file, its flags, and the keys that environment variables set.
    """
    app = typer.Typer()
    app.command()(serve.command)
    parsed = typer.main.get_command(app).make_context("config show", arguments)
    sources = {name: parsed.get_parameter_source(name) for name in parsed.params}
    from_env = [
        serve.key_of(n) for n, source in sources.items() if source and source.name == "ENVIRONMENT"
    ]
    return parsed.params["config"], serve.read_flags(parsed.params), from_env
