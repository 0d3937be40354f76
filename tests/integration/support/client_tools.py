"""Client libraries and load tools that `make test-clients` installs, each in a folder of its own."""

import os
from pathlib import Path

import pytest

FOLDER = os.environ.get("PDSERVE_CLIENTS", "")


def installed(name: str) -> Path:
    """Return a tool's folder. Skips the test, with the reason, if it cannot be installed here."""
    assert FOLDER, "run `make test-clients`"
    folder = Path(FOLDER, name)
    if not (folder / ".installed").exists():
        pytest.skip(f"{name} is not installed: {_problem(folder)}")
    return folder


def _problem(folder: Path) -> str:
    """Return what the installer said, in one line."""
    file = folder / "problem"
    lines = file.read_text("utf-8").split("\n") if file.exists() else []
    errors = [line for line in lines if "ERROR" in line]
    return next(iter([*errors, *lines]), "") or "nothing is known"
