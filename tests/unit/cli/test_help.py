"""Help, version and exit codes: each default is shown, and each code is documented once."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import typer.main

from cli.exit_codes import ExitCode
from cli.main import app
from cli.serve import key_of
from cli.settings import get_setting
from common.config import ServeConfig
from tests.unit.cli.conftest import Run

OPERATIONS = Path(__file__).parents[3] / "docs" / "operate" / "operations.md"


def commands(group: object = None, *path: str) -> list[tuple[tuple[str, ...], object]]:
    """Return all commands with the words that call them."""
    root = group or typer.main.get_command(app)
    found = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = commands(command, *path, name) if hasattr(command, "commands") else []
        found += inner or [((*path, name), command)]
    return found


COMMANDS = commands()


def help_of(run: Run, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setenv("COLUMNS", "300")
    ended = run(*words, "--help")
    assert ended.code == 0
    return ended.out


def line_of(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if re.search(rf"{re.escape(name)}[ ,]", line)]
    return line


@pytest.mark.parametrize("name", ["serve", "router"])
def test_flags_of_settings_show_the_settings_defaults(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, (command,) = help_of(run, monkeypatch, name), [c for p, c in COMMANDS if p == (name,)]
    for param in command.params:  # type: ignore[attr-defined]
        if param.name in ("help", "config", "model"):
            continue
        value = get_setting(ServeConfig(), key_of(param.name))
        said = {None: "unset", False: "off"}.get(value, str(value))  # type: ignore[call-overload]
        assert f"[default: ({said})]" in line_of(text, param.opts[0])
    if name == "serve":
        assert f"[default: ({ServeConfig().model})]" in text


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(p) for p, _ in COMMANDS])
def test_every_default_that_is_a_value_is_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...], command: object
) -> None:
    text = help_of(run, monkeypatch, *path)
    for param in command.params:  # type: ignore[attr-defined]
        if param.default is not None and param.default is not False and not param.required:
            assert f"[default: {param.default}]" in line_of(text, param.opts[-1]), param.name


def test_the_version_is_that_of_the_package(run: Run) -> None:
    ended = run("--version")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"pdserve {importlib.metadata.version('pdserve')}\n"


def test_exit_codes_are_in_the_help_and_documented_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = help_of(run, monkeypatch)
    for code in ExitCode:
        assert f"{code.value}: {code.meaning}" in shown
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", OPERATIONS.read_text("utf-8"), re.MULTILINE)
    assert rows == [(str(code.value), code.meaning) for code in ExitCode]


def test_no_color_is_honoured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    color = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9|10)[0-8]")
    assert color.search(run("doctor").out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not color.search(run("doctor").out)
