"""Targets of our documents exist: files, headings, sources, classes and their methods."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.unit.repository.pages import anchors, code_spans, links, name_of, pages, pictures
from tests.unit.repository.sources import ROOT, modules, packages, statements

DOCUMENTS = [*pages(), ROOT / "CHANGELOG.md"]
TEXTS = ("*.py", "*.proto", "*.yaml", "*.toml", "*.md", "Makefile")
LIFE = "## The life of a request"
ARCHITECTURE = ROOT / "docs" / "design" / "architecture.md"


def broken(page: Path, text: str) -> list[str]:
    """Links of a page whose file or heading is missing; what is not ours is not looked up."""
    found = []
    for link in [*links(text), *pictures(text)]:
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        there = file.read_text("utf-8") if file.suffix == ".md" and file.is_file() else ""
        if not file.exists() or (anchor and anchor not in anchors(there)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    assert broken(page, page.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "link", ["docs/nothing.md", "README.md#no-such-heading", "#no-such-heading", "docs/engine.md"]
)
def test_a_broken_link_is_found(link: str) -> None:
    assert broken(ROOT / "README.md", f"# A\nSee [this]({link}).") == [link]


def test_every_page_is_listed_in_the_index_and_on_the_site() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link).resolve() for link in links(index.read_text("utf-8"))}
    assert {page for page in pages() if ROOT / "docs" in page.parents} - {index} - listed == set()
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert [name_of(page) for page in DOCUMENTS if f" {name_of(page)}\n" not in site] == []


def test_documents_named_anywhere_exist() -> None:
    files = [file for folder in (*packages(), ROOT / "tests") for file in folder.rglob("*")]
    files += [*ROOT.iterdir(), *(ROOT / "proto").rglob("*"), *(ROOT / "docs").rglob("*")]
    missing = {
        (name_of(file), named)
        for file in files
        if file.is_file() and any(file.match(pattern) for pattern in TEXTS)
        for named in re.findall(r"(?<![\w/])docs/[\w/-]+\.md\b", file.read_text("utf-8"))
        if not (ROOT / named).is_file()
    }
    assert {name for name in missing if name[0] != name_of(Path(__file__))} == set()


@cache
def sources() -> dict[str, set[str]]:
    """Return the names that each of our modules defines, by its path."""
    return {path: defined(module) for path, module in modules(*packages(), ROOT / "tests")}


def is_source(name: str) -> bool:
    """One of our modules has this path, or a path that ends so."""
    return any(path == name or path.endswith(f"/{name}") for path in sources())


def defined(module: ast.Module) -> set[str]:
    """Functions, classes, and `Class.name` for methods, fields and properties."""
    names = set()
    for node in statements(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {node.name, *(f"{node.name}.{member}" for member in members(node))}
    return names


def members(node: ast.ClassDef) -> set[str]:
    """Return the names defined in a class, or assigned to `self` in its methods."""
    names = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(inner.name)
        elif isinstance(inner, ast.AnnAssign | ast.Attribute):
            target = inner.target if isinstance(inner, ast.AnnAssign) else inner
            if isinstance(target, ast.Name):
                names.add(target.id)
            elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                names |= {target.attr} if target.value.id == "self" else set()
    return names


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_sources_that_a_page_names_exist(page: Path) -> None:
    named = [
        span for span in code_spans(page.read_text("utf-8")) if re.fullmatch(r"[\w/]+\.py", span)
    ]
    assert [span for span in named if not is_source(span)] == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_members_of_our_classes_that_a_page_names_exist(page: Path) -> None:
    fields = "".join(proto.read_text("utf-8") for proto in (ROOT / "proto").rglob("*.proto"))
    spans = "\n".join(code_spans(page.read_text("utf-8")))
    named = re.findall(r"^([A-Z]\w+)\.([a-z_]\w*)", spans, re.MULTILINE)
    known = set().union(*sources().values())
    owners = {name.partition(".")[0] for name in known if "." in name}
    missing = [f"{owner}.{name}" for owner, name in named if owner in owners]
    # a message of the API may have the name of a class
    missing = [name for name in missing if not re.search(rf"\b{name.partition('.')[2]} = ", fields)]
    assert [name for name in missing if name not in known] == []


def life_of_a_request() -> list[str]:
    """The numbered lines of that section."""
    text = ARCHITECTURE.read_text("utf-8")
    section = text.partition(f"\n{LIFE}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\d\. .+?(?=^\d\. |^\S|\Z)", section, re.DOTALL | re.MULTILINE)


def test_the_life_of_a_request_has_about_nine_lines() -> None:
    assert 8 <= len(life_of_a_request()) <= 10


@pytest.mark.parametrize("number", range(1, 10))
def test_each_line_of_the_life_names_functions_and_their_files(number: int) -> None:
    spans = code_spans(life_of_a_request()[number - 1])
    files = [span for span in spans if span.endswith(".py")]
    names = [span for span in spans if re.fullmatch(r"\w+(\.\w+)?", span) and span not in files]
    assert files
    assert names
    assert [file for file in files if file not in sources()] == []
    known = set().union(*(sources()[file] for file in files))
    assert [name for name in names if name not in known] == []


def test_a_function_that_is_not_there_would_be_seen() -> None:
    module = ast.parse("class A:\n    b: int\n    def c(self) -> None:\n        self.d = 1\n")
    assert defined(module) == {"A", "A.b", "A.c", "A.d", "c"}
