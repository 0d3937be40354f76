"""Modules that are put off: imported when a name is wanted, and not before."""

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.later import import_now, put_off

NAMES = ("put_off_package", "put_off_package.part")


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write a package with a module in it, neither imported yet."""
    folder = tmp_path / NAMES[0]
    folder.mkdir()
    (folder / "__init__.py").write_text("number = 1\nfrom put_off_package import part as held\n")
    (folder / "part.py").write_text("number = 2\nlog = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def is_imported(name: str) -> bool:
    return "number" in vars(sys.modules[name])


def test_a_module_is_imported_at_the_first_name_that_is_wanted() -> None:
    put_off(NAMES[0])
    import put_off_package  # type: ignore[import-not-found]

    assert importlib.util.find_spec(NAMES[0]) is not None
    inspect.getmodule(inspect.currentframe())  # looks at every module
    assert not is_imported(NAMES[0])
    assert put_off_package.number == 1
    assert is_imported(NAMES[0])


def test_a_part_is_put_off_while_its_package_is_imported() -> None:
    put_off(NAMES[1])
    package = import_now(NAMES[0])
    assert is_imported(NAMES[0])
    assert not is_imported(NAMES[1])
    assert package.held.number == 2
    assert import_now(NAMES[1]) is sys.modules[NAMES[1]]
    package.held.log.append(1)  # one module, whichever way it is reached
    assert import_now(NAMES[1]).log == [1]


def test_a_part_of_a_package_that_is_put_off_can_be_imported() -> None:
    put_off(NAMES[0])
    import put_off_package.part  # type: ignore[import-not-found]

    assert put_off_package.part.number == 2
    assert is_imported(NAMES[0])


def test_what_is_imported_or_not_installed_stays_as_it_is() -> None:
    imported = import_now(NAMES[0])
    put_off(NAMES[0], "put_off_package.none", "put_off_nowhere", "put_off_nowhere.part")
    assert sys.modules[NAMES[0]] is imported
    assert not {"put_off_package.none", "put_off_nowhere"} & sys.modules.keys()
