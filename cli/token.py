"""The command `pdserve token`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.output import AsJson, print_json
from pdserve.errors import SetupError
from router.access.access_file import access_line, check_tenant_name, make_token
from router.access.tenant import Tenant

_ADMIN_HELP = (
    "It may also use `status`, `blocks`, `scale` and `drain`, and explain, resume and cancel the requests of "
    "all tenants"
)

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep `create` a subcommand; typer would otherwise make it the group itself."""


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose token it is")],
    admin: Annotated[bool, typer.Option("--admin", help=_ADMIN_HELP)] = False,
    append: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the line to this access file")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. It is printed once and kept nowhere; the access file holds its hash."""
    try:
        check_tenant_name(tenant)
    except ValueError as error:
        raise SetupError(f"--tenant '{tenant}': {error}") from None
    token = make_token()
    line = access_line(Tenant(tenant, is_admin=admin), token)
    if as_json:
        if append is not None:
            _append(append, line)
        print_json({"token": token, "access_line": line})
        return
    if append is None:
        print(f"{token}\n{line}")
        note = "the first line is the token; the second goes into security.access_file"
    else:
        _append(append, line)
        print(token)
        note = f"a running router takes it from {append} at once"
    print(note, file=sys.stderr)


def _append(file: Path, line: str) -> None:
    try:
        with file.open("a+", encoding="utf-8") as access:
            access.seek(0)
            text = access.read()
            gap = "\n" if text and not text.endswith("\n") else ""
            access.write(f"{gap}{line}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--append {file}: {error}") from error
