"""Wheel: one package, imports that stay inside it, and a client that needs little."""

import ast
import zipfile
from pathlib import Path

import pytest

from tests.unit.repository.sources import ROOT, packages
from tests.wheels import build_wheel, foreign_packages, install, link_dependencies, run_installed

HOME = "pdserve/_server"
SERVER = {package.name for package in packages()} - {"pdserve"}
NEEDED = {
    "pdserve/py.typed",
    "pdserve/v1/worker_pb2.pyi",
    f"{HOME}/deploy/Dockerfile",
    f"{HOME}/deploy/ray/cluster.yaml",
    f"{HOME}/deploy/k8s/base/kustomization.yaml",
    f"{HOME}/deploy/helm/pdserve/values.schema.json",
    f"{HOME}/deploy/helm/pdserve/templates/raycluster.yaml",
}
# what tells the two layouts apart
NAMES = {"pdserve/__main__.py": ["cli.main"], f"{HOME}/cli/shadowing.py": ["cli.shadowing"]}
HEAVY = "torch ray transformers numba numpy pydantic structlog starlette yaml psutil"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in packages()
    for path in package.rglob("*.py")
} - SERVER  # a word such as "router" is a name of many things
IMPORTS = f"""
import sys, pdserve
assert pdserve.Client and pdserve.AsyncClient and pdserve.SamplingParams and pdserve.Completion
print(sorted(set({HEAVY.split()!r}) & set(sys.modules)), pdserve.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def files(wheel: Path) -> dict[str, str]:
    """Texts of the wheel by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with the wheel and what it needs without extras."""
    folder = tmp_path_factory.mktemp("light")
    return install(wheel, folder / "venv", link_dependencies(folder / "others"))


def sources() -> set[str]:
    """Names in the wheel that all modules of the checkout must have."""
    paths = [path.relative_to(ROOT) for package in packages() for path in package.rglob("*.py")]
    return {f"{HOME}/{path}" if path.parts[0] in SERVER else str(path) for path in paths}


def foreign_names(module: ast.Module) -> list[str]:
    """Imports of a checkout's packages, and texts that name a module of theirs."""
    found: list[str] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if node.value in MODULES else []
    return [name for name in found if name.partition(".")[0] in SERVER]


def test_all_modules_lie_in_one_package(files: dict[str, str]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in files} == {"pdserve"}
    assert {name for name in files if name.endswith(".py")} == sources()
    assert files.keys() >= NEEDED
    (top_level,) = [text for name, text in files.items() if name.endswith("/top_level.txt")]
    assert top_level.split() == ["pdserve"]


def test_nothing_in_it_imports_a_package_of_the_checkout_and_little_names_one(
    files: dict[str, str],
) -> None:
    ours = [name for name in files if name.endswith(".py") and "/v1/" not in name]
    modules = {name: ast.parse(files[name]) for name in ours}
    assert {name: found for name, m in modules.items() if (found := foreign_names(m))} == NAMES


@pytest.mark.parametrize(
    "source",
    ["import common", "from router.app import Router", "run('common.grammar.child')"],
)
def test_a_name_of_the_checkout_would_be_found(source: str) -> None:
    assert foreign_names(ast.parse(source))


def test_a_client_needs_only_the_light_dependencies(light: Path, tmp_path: Path) -> None:
    ended = run_installed(light / "python", "-c", IMPORTS, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"[] {light.parent}")


def test_the_light_program_asks_a_router_and_says_what_a_server_needs(
    light: Path, tmp_path: Path
) -> None:
    folder = foreign_packages(tmp_path)
    asked = run_installed(
        light / "pdserve", "generate", "hello", "--address", "127.0.0.1:1", cwd=folder
    )
    (line,) = asked.stderr.splitlines()
    assert asked.returncode == 1
    assert line.startswith("pdserve: ")
    assert "127.0.0.1:1" in line
    refused = run_installed(light / "pdserve", "serve", "--prefill", "2", cwd=folder)
    (line,) = refused.stderr.splitlines()
    assert refused.returncode == 2
    assert line.endswith("is not installed. pip install 'pdserve[serve]'")
    assert run_installed(light / "pdserve", "--help", cwd=folder).returncode == 0
