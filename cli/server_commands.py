"""The commands that need the server, which the extra `serve` of the package installs.

Without it each of them stands in the help all the same, and says in one line what to install.
"""

import importlib.util
from collections.abc import Callable

import typer

from pdserve.errors import SetupError

# of the extra's packages, one from each of its parts; looked for, not imported
_PACKAGES = (
    "torch",
    "ray",
    "transformers",
    "pydantic_settings",
    "structlog",
    "starlette",
    "psutil",
)
_INSTALL = "pip install 'pdserve[serve]'"
_NAMES = ("serve", "router", "demo", "chaos", "doctor", "logs", "config", "model")
_ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_server_commands(app: typer.Typer) -> None:
    """Add them to the program: the commands themselves, or else what says that they are not installed."""
    missing = next((name for name in _PACKAGES if importlib.util.find_spec(name) is None), None)
    if missing is None:
        _add_installed(app)
        return
    for name in _NAMES:
        command = app.command(
            name,
            help=f"Not installed: {_INSTALL}",
            context_settings=_ANY_ARGUMENTS,
            add_help_option=False,
        )
        command(_refusal(name, missing))


def _add_installed(app: typer.Typer) -> None:
    from cli import chaos, config, demo, doctor, logs, model, router, serve

    app.command("serve")(serve.command)
    app.command("router")(router.command)
    app.command("demo")(demo.command)
    app.command("chaos")(chaos.command)
    app.command("doctor")(doctor.command)
    app.command("logs")(logs.command)
    app.add_typer(config.app, name="config", help="Show the settings and their schema.")
    app.add_typer(model.app, name="model", help="Fetch and list models.")


def _refusal(name: str, missing: str) -> Callable[[], None]:
    def refuse() -> None:
        raise SetupError(
            f"`pdserve {name}` needs the server, and {missing} is not installed", _INSTALL
        )

    return refuse
