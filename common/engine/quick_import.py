"""Quick import of `transformers` in a worker on a CPU, without what such a worker never uses.

1. The plain import loads torch's compiler, to decorate functions. We compile nothing with torch.
2. It loads torch's distributed tensors. Our workers share none.
3. It reads 3,300 source files for their `__all__`, line by line, twice.

These are private matters of both packages. Versions that were not tried, and workers on CUDA, import plainly.
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch

from common.telemetry.logs import get_logger

_TRIED = {"torch": "2.13.", "transformers": "5.23."}
_SCANNER = "transformers.utils.import_utils"
_COMPILER, _TRACING = "torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op"


def import_transformers() -> None:
    """Import what loading a model takes of `transformers`; quickly where that is safe."""
    are_known = all(version(package).startswith(known) for package, known in _TRIED.items())
    are_loaded = "transformers" in sys.modules or _COMPILER in sys.modules
    if not are_known or are_loaded or torch.cuda.is_available():
        return
    try:
        _import_quickly()
    # whatever it imports, if installed, may ask more of our stand-ins
    except Exception as error:
        get_logger().warning("quick_import_failed", error=repr(error), instead="the plain import")
        _real(_COMPILER)
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
            del sys.modules[name]


def _import_quickly() -> None:
    with _quick_scan():
        importlib.import_module("transformers.models")
    _leave_out_distributed_tensors()
    sys.modules.update({_COMPILER: _CompilerStandIn(), _TRACING: ModuleType(_TRACING)})
    vars(sys.modules[_TRACING])["TransformGetItemToIndex"] = _tracing
    importlib.import_module("transformers.modeling_utils")


class _CompilerStandIn(ModuleType):
    """torch's compiler with its decorators alone; the first other name makes way for the real one."""

    def __init__(self) -> None:
        super().__init__(_COMPILER)
        names = ("allow_in_graph", "assume_constant_result", "disable")
        self.__dict__.update(dict.fromkeys(names, _unchanged))

    def __getattr__(self, name: str) -> object:
        return getattr(_real(_COMPILER), name)


def _real(name: str) -> Any:
    """Import the compiler, or a part of it, instead of the stand-ins."""
    if isinstance(sys.modules.get(_COMPILER), _CompilerStandIn):
        del sys.modules[_COMPILER], sys.modules[_TRACING]
    return importlib.import_module(name)


def _unchanged(function: Any = None, *_told: object, **_options: object) -> Any:
    """Decorate nothing: what the compiler is told of a function matters to the compiler alone."""
    return _unchanged if function is None else function


def _tracing() -> object:
    """Make the context manager that the masks of some models enter."""
    return _real(_TRACING).TransformGetItemToIndex()


def _leave_out_distributed_tensors() -> None:
    """Have `transformers` remember that this torch has none, as some builds of torch have not."""
    from transformers.utils import is_torch_distributed_available

    distributed: Any = torch.distributed
    is_available = distributed.is_available
    distributed.is_available = lambda: False
    try:
        is_torch_distributed_available()  # keeps its first answer
    finally:
        distributed.is_available = is_available


@contextmanager
def _quick_scan() -> Iterator[None]:
    finder = _ScannerFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _ScannerFinder(MetaPathFinder):
    """Finder of the module that scans the sources; it is changed before it is first used."""

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the scanner alone, like PathFinder."""
        spec = PathFinder.find_spec(name, path, target) if name == _SCANNER else None
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = functools.partial(_execute, loader.exec_module)
        return spec


def _execute(execute: Callable[[ModuleType], None], module: Any) -> None:
    execute(module)
    module.fetch__all__ = _from_the_last_line(module.fetch__all__)
    scan = functools.cache(module.create_import_structure_from_path)
    # the package asks once for the folder and once for the `__init__.py` in it
    module.create_import_structure_from_path = lambda path: scan(_folder(path))


def _from_the_last_line(fetch: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Hand on only the end of a source, from the last line that sets `__all__`: the rest is not looked at."""

    def fetch_of_end(source: str) -> list[str]:
        return fetch(source[source.rfind("\n__all__") + 1 :])

    return fetch_of_end


def _folder(path: "str | os.PathLike[str]") -> str:
    return os.path.dirname(path) if os.path.isfile(path) else os.fspath(path)
