"""English of docstrings: each opens with a noun or a verb, and names its subject."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.unit.repository.sources import ROOT, modules, packages, statements

_RELATIVES = ("Of", "What", "Who", "Whose", "Whom", "Whether", "How", "Where", "Why")
_BANNED = (*_RELATIVES, "It", "They", "This", "That", "See")
_OPENER = re.compile(rf"(?:{'|'.join(_BANNED)})\b")
# any text that opens so
_OPENED = rf"[\"'](?:\s|\\\n)*{_OPENER.pattern}"

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def offenders(module: ast.Module) -> Iterator[str]:
    """Yield "line name" of each docstring with a banned first word."""
    for node in (module, *statements(module)):
        if not isinstance(node, Documented):
            continue
        docstring = ast.get_docstring(node)
        if docstring is not None and _OPENER.match(docstring):
            yield f"{getattr(node, 'lineno', 1)} {getattr(node, 'name', 'module')}"


def test_docstrings_open_with_a_noun_or_a_verb() -> None:
    found = modules(*packages(), ROOT / "tests", having=_OPENED)
    assert [f"{path}:{one}" for path, module in found for one in offenders(module)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""What this file is."""\n', ["1 module"]),
        ('class A:\n    """Whose turn it is."""\n', ["1 A"]),
        ('def f():\n    """Of this moment."""\n', ["1 f"]),
        ('async def f():\n    """Whether it may."""\n', ["1 f"]),
        ('class A:\n    def f(self):\n        """See WorkerPort."""\n', ["2 f"]),
        ('def f():\n    """It goes there."""\n', ["1 f"]),
        ('def f():\n    """\n    How it ends.\n    """\n', ["1 f"]),
        ('def f():\n    """That which is left."""\n', ["1 f"]),
        ('def f():\n    """Return what is left; see WorkerPort."""\n', []),
        ('def f():\n    """Offer a prompt."""\n', []),
        ('class A:\n    """Seed of a sampler."""\n', []),
        ('def f():\n    "a doc".strip()\n', []),
        ("def f():\n    # What a comment says is free\n    return 1\n", []),
    ],
)
def test_a_first_word_that_names_no_subject_is_found(source: str, found: list[str]) -> None:
    assert list(offenders(ast.parse(source))) == found
    assert re.search(_OPENED, source) or not found
