"""Runs of the command line in this process."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.main import main


@dataclass(frozen=True, slots=True)
class Ended:
    """Output and exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on stderr; fails if there are more or fewer."""
        (line,) = [line for line in self.err.splitlines() if line.strip()]
        assert "Traceback" not in self.out
        return line


Run = Callable[..., Ended]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the developer's own settings, and use an empty cache."""
    for name in list(os.environ):
        if name.startswith("PDSERVE_") or name == "RAY_ADDRESS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# replaces the kernel tests of `pdserve doctor`: quick, and all kernels are right
GOOD_CHILD = """
import json, os, signal, sys
family, dtype = (*sys.argv[1:], "")[:2]
target = dict(cpu="haswell", level="avx2", dtype="bfloat16", dtype_reason="it is fast", lack=None)
report = target if family == "target" else dict(reason=None, arithmetic="widened to float32")
{instead}
print(json.dumps(report))
"""
UseChild = Callable[[str], None]


@pytest.fixture(autouse=True)
def use_child(monkeypatch: pytest.MonkeyPatch) -> UseChild:
    """Return `use_child(code)`: the doctor's children run that code before they report."""

    def use(instead: str) -> None:
        command = (sys.executable, "-S", "-c", GOOD_CHILD.format(instead=instead))
        monkeypatch.setattr("cli.kernel_tests._CHILD", command)

    use("")
    return use


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a runner: `run("serve", "--prefill", "1")` runs that command to its end."""

    def run_command(*args: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["pdserve", *args])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        out, err = capsys.readouterr()
        return Ended(code if isinstance(code, int) else 0, out, err)

    return run_command
