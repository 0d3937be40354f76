"""Modules whose import is put off until something asks them for a name.

Large packages import others at their top that few of their users ever need. A stand-in takes the place of
such a module: it has its name and file, and imports the module itself at the first other attribute.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Later(ModuleType):
    """Stand-in for a module that is not imported yet."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        # what others look at in every module that they find, without any wish for this one
        self.__dict__.update(__spec__=spec, __file__=spec.origin, __loader__=spec.loader)

    def __getattr__(self, name: str) -> object:
        return getattr(import_now(self.__name__), name)


def put_off(*names: str) -> None:
    """Put off the import of these modules; none is touched that is imported already, or not installed."""
    for name in names:
        spec = None if name in sys.modules else _find(name)
        if spec is not None:
            sys.modules[name] = _Later(spec)


def is_put_off(name: str) -> bool:
    """Return True for a module whose import was put off, and that nobody has asked for yet."""
    return isinstance(sys.modules.get(name), _Later)


def import_now(name: str) -> ModuleType:
    """Import a module that may have been put off."""
    if is_put_off(name):
        sys.modules.pop(name, None)
    return importlib.import_module(name)


def _find(name: str) -> ModuleSpec | None:
    """Find a module without an import of the package that it belongs to."""
    parent = name.rpartition(".")[0]
    if not parent:
        return PathFinder.find_spec(name)
    package = _find(parent)
    path = package.submodule_search_locations if package is not None else None
    return PathFinder.find_spec(name, path) if path else None
