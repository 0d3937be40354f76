"""Source files of this repository, for tests that read them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from cli.shadowing import OURS

ROOT = Path(__file__).parents[3]
GENERATED = ROOT / "pdserve" / "v1"
# folders that a checkout may not have
_BESIDE = ("benchmarks", "simulator")


def packages() -> list[Path]:
    """Return the folders that are shipped."""
    return [ROOT / name for name in (*OURS, *_BESIDE) if (ROOT / name).is_dir()]


def modules(*folders: Path, having: str = "") -> Iterator[tuple[str, ast.Module]]:
    """Yield every module below the folders, with its path; generated ones are left out.

    So are those whose text does not match `having`, a regular expression: to parse all takes seconds.
    """
    wanted = re.compile(having)
    for folder in folders or packages():
        for file in sorted(folder.rglob("*.py")):
            if GENERATED not in file.parents:
                text = file.read_text("utf-8")
                if wanted.search(text):
                    yield str(file.relative_to(ROOT)), ast.parse(text)


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield all statements inside a node, those of inner blocks too; ast.walk visits far more."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, block, ()):
            if isinstance(inner, ast.stmt):
                yield inner
            yield from statements(inner)
