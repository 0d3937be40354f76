"""Commands of the server where the extra `serve` is not installed."""

import pytest
import typer
import typer.main

from cli.main import app
from cli.server_commands import add_server_commands
from pdserve.errors import SetupError

ANY = [[], ["--help"], ["--prefill", "2", "model"], ["show", "--effective"]]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setattr("cli.server_commands._PACKAGES", ("pytest", "a_package_that_is_missing"))
    program = typer.Typer()
    add_server_commands(program)
    return program


def names(program: typer.Typer) -> set[str]:
    return set(typer.main.get_command(program).commands)  # type: ignore[attr-defined]


def test_the_same_commands_are_there_without_the_server(light: typer.Typer) -> None:
    whole = typer.Typer()
    add_server_commands(whole)
    assert names(light) == names(whole) < names(app)


@pytest.mark.parametrize("arguments", ANY, ids=" ".join)
def test_each_says_in_one_line_what_to_install(light: typer.Typer, arguments: list[str]) -> None:
    for name in names(light):
        with pytest.raises(SetupError) as caught:
            light([name, *arguments], standalone_mode=False)
        assert str(caught.value) == (
            f"`pdserve {name}` needs the server, and a_package_that_is_missing is not installed. "
            "pip install 'pdserve[serve]'"
        )
