"""Plugin of pytest that has kernels compiled for a CPU which this one is not, and runs none.

`NUMBA_CPU_NAME=znver4 NUMBA_CPU_FEATURES= python -m pytest -p scripts.compile_kernels TESTS...`. A call
gives zero and leaves arrays as they are, so tests fail behind it. What they called is kept on disk, for that
CPU or an emulator of it.
"""

from typing import Any

from numba.core import types

from common.engine.cpu import jit
from common.engine.cpu.jit import Compiled, Decorator

_real_kernel = jit.kernel


class _Unrun:
    """A kernel whose call only compiles."""

    def __init__(self, dispatcher: Any, is_compiled: bool) -> None:
        self._dispatcher = dispatcher
        self._is_compiled = is_compiled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    def __call__(self, *args: Any) -> object:
        dispatcher = self._dispatcher
        if not self._is_compiled:
            dispatcher.compile(tuple(map(dispatcher.typeof_pyval, args)))
        result = next(iter(dispatcher.overloads.values())).signature.return_type
        return None if result == types.none else 0


def _kernel(*, signature: object = None, variant: str = "") -> Decorator:
    decorate = _real_kernel(signature=signature, variant=variant)

    def compile_alone(function: Compiled) -> Compiled:
        return _Unrun(decorate(function), signature is not None)

    return compile_alone


jit.kernel = _kernel
