"""The page's files: all of them are shipped, small, and load nothing from elsewhere."""

import re
import tomllib
from fnmatch import fnmatch

import pytest

from router.edge.live.assets import read_assets
from tests.unit.repository.sources import ROOT

FOLDER = ROOT / "router" / "edge" / "live"
FILES = [
    file for file in sorted(FOLDER.iterdir()) if file.suffix in (".html", ".css", ".js", ".svg")
]


def test_the_wheel_has_every_file_of_the_page() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["pdserve._server.router.edge.live"]
    for file in FILES:
        assert any(fnmatch(file.name, pattern) for pattern in patterns), file.name


def test_each_file_is_served_at_the_path_by_which_the_page_asks_for_it() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    wanted = set(re.findall(r'(?:src|href)="(live/[^"]+)"', page))
    served = read_assets()
    assert {f"/{path}" for path in wanted} | {"/"} == set(served)
    assert {answer.body for answer in served.values()} == {file.read_bytes() for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_names_no_other_server_and_is_small(file: object) -> None:
    text = (FOLDER / getattr(file, "name", "")).read_text("utf-8")
    addresses = set(re.findall(r"https?://[^\s\"')]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert len(text) < 40_000


def test_no_text_becomes_html_and_nothing_is_inline() -> None:
    script = (FOLDER / "live.js").read_text("utf-8")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in script
    page = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<style|<script(?! type=\"module\" src=)|\son\w+=|\sstyle=", page)
