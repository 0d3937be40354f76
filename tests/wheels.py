"""The wheel of this checkout, and environments in which it is installed without a network."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from tests.patience import WITHIN_S
from tests.unit.repository.sources import ROOT, packages

_BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in")
_BUILD = "from setuptools.build_meta import build_wheel; build_wheel('..')"
SITE = Path(sysconfig.get_paths()["purelib"])  # the packages of the tests' own environment


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout in a folder, from a copy, and return the file."""
    tree = folder / "tree"
    tree.mkdir()
    for package in packages():
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(package, tree / package.name, ignore=ignored)
    for name in _BUILT_FROM:
        shutil.copy(ROOT / name, tree)
    _run([sys.executable, "-c", _BUILD], cwd=tree)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path, others: Path) -> Path:
    """Install the wheel into a new environment that also sees the packages in `others`.

    Returns the folder of its programs.
    """
    _run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    programs = environment / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install"]
    _run([*pip, "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)])
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{others}\n")
    return programs


def link_dependencies(folder: Path) -> Path:
    """Fill a folder with links to what pdserve needs without an extra, and return it."""
    folder.mkdir()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for name in _closure(project["dependencies"]):
        for top in {file.parts[0] for file in importlib.metadata.files(name) or ()}:
            if (SITE / top).exists() and top != ".." and not (folder / top).exists():
                (folder / top).symlink_to(SITE / top)
    return folder


def installed_only() -> dict[str, str]:
    """Return an environment in which Python finds installed packages alone."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def foreign_packages(folder: Path) -> Path:
    """Fill a folder with packages that have our packages' names in a checkout, and return it."""
    for package in packages():
        if package.name != "pdserve":
            (folder / package.name).mkdir(parents=True)
            (folder / package.name / "__init__.py").write_text("raise RuntimeError('foreign')\n")
    return folder


def _closure(requirements: Sequence[str]) -> Iterator[str]:
    """Yield the names of the distributions that these need, without extras, each once."""
    seen, left = set[str](), [Requirement(text) for text in requirements]
    while left:
        needed = left.pop()
        if needed.name in seen or not (needed.marker is None or needed.marker.evaluate()):
            continue
        seen.add(needed.name)
        yield needed.name
        left += [Requirement(text) for text in importlib.metadata.requires(needed.name) or ()]


def run_installed(
    program: Path, *arguments: str, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program in an environment of installed packages alone; return what it said."""
    return subprocess.run(
        [str(program), *arguments],
        cwd=cwd,
        env=installed_only(),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def _run(command: Sequence[str], cwd: Path | None = None) -> None:
    program, *arguments = command
    ended = run_installed(Path(program), *arguments, cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
