"""Source files of this repository, for tests that read them."""

import ast
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


def modules(*folders: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yield every module below the folders, with its path; generated ones are left out."""
    for folder in folders or packages():
        for file in sorted(folder.rglob("*.py")):
            if GENERATED not in file.parents:
                yield str(file.relative_to(ROOT)), ast.parse(file.read_text("utf-8"))
