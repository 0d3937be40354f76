"""The `pdserve` program. One small module per command; errors end in one line on stderr."""

import importlib.metadata
import sys
from typing import Annotated

import typer

from cli import chat, drain, explain, generate, scale, status, token, top
from cli.connection import reaches_router
from cli.exit_codes import ExitCode, describe_exit_codes
from cli.server_commands import add_server_commands
from pdserve.errors import PdserveError, RequestError, WorkerDiedError

app = typer.Typer(
    help="Disaggregated prefill/decode serving for language models.",
    epilog=describe_exit_codes(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
add_server_commands(app)
app.command("generate")(reaches_router(generate.command))
app.command("chat")(reaches_router(chat.command))
app.command("status")(reaches_router(status.command))
app.command("top")(reaches_router(top.command))
app.command("scale")(reaches_router(scale.command))
app.command("drain")(reaches_router(drain.command))
app.command("explain")(reaches_router(explain.command))
app.add_typer(token.app, name="token", help="Make tokens for clients of a router.")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pdserve {importlib.metadata.version('pdserve')}")
        raise typer.Exit


@app.callback()
def group(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit"),
    ] = False,
) -> None:
    """Hold the options that need no command."""


def main() -> None:
    """Entry point of the console script."""
    try:
        # by this name shells ask for completions, however the program was started
        sys.exit(app(prog_name="pdserve", standalone_mode=False))
    except PdserveError as error:
        print(f"pdserve: {error}", file=sys.stderr)
        has_begun = isinstance(error, RequestError | WorkerDiedError)
        sys.exit(ExitCode.FAILED if has_begun else ExitCode.USAGE)
    except typer.TyperException as error:
        message = " ".join(_usage_message(error).split()).removesuffix(".")
        if message:  # the message is empty when help was printed instead
            print(f"pdserve: {message}. Try --help", file=sys.stderr)
        sys.exit(ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(ExitCode.INTERRUPTED)


def _usage_message(error: typer.TyperException) -> str:
    """Return the message with the option's name, which `str` leaves out."""
    if isinstance(error, typer.BadParameter):
        return error.format_message()
    return str(error)
