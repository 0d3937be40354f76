"""Commands, targets, modules and settings that our documents name exist."""

import re
from pathlib import Path

import pytest
import typer.main

from cli.main import app
from cli.settings import setting_keys
from tests.unit.repository.pages import code_lines, code_spans, name_of, pages
from tests.unit.repository.sources import ROOT

COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # it is a group
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
SECTIONS = {key.partition(".")[0] for key in setting_keys() if "." in key}


def mentions(page: Path, pattern: str) -> set[str]:
    """What the pattern's group matches at the beginning of the page's code spans and code lines."""
    text = page.read_text("utf-8")
    lines = [line.removeprefix("$ ") for line in code_lines(text)]
    return {found[1] for span in [*code_spans(text), *lines] if (found := re.match(pattern, span))}


def is_module(name: str) -> bool:
    """`python -m` can run it."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    assert mentions(page, r"pdserve ([a-z]+)(?: |$)") <= COMMANDS | {"ready"}
    assert mentions(page, r"make ([a-z-]+)(?: |$)") <= TARGETS
    assert [name for name in mentions(page, r"python -m ([\w.]+)") if not is_module(name)] == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    named = mentions(page, rf"((?:{'|'.join(SECTIONS)})\.[a-z_.]+)(?:: .*)?$")
    named = {name for name in named if not name.endswith((".py", "_"))}
    groups = {key.rpartition(".")[0] for key in setting_keys()}
    assert named - groups <= set(setting_keys())


def test_what_does_not_exist_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`make nothing`, `pdserve fly`\n\n```\n$ python -m benchmarks.nothing\n```\n")
    assert mentions(page, r"make ([a-z-]+)(?: |$)") - TARGETS == {"nothing"}
    assert mentions(page, r"pdserve ([a-z]+)(?: |$)") - COMMANDS == {"fly"}
    assert not is_module(*mentions(page, r"python -m ([\w.]+)"))
