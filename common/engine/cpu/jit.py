"""Decorators of kernels and of their parts.

A kernel is called from Python, without the GIL; kernel_cache.py keeps its machine code on disk. A part is
called by kernels, and has machine code only inside theirs (late_code.py).
"""

from collections.abc import Callable, Set
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock

from common.engine.cpu.kernel_cache import KernelCache, kernels_dir
from common.engine.cpu.linking import guard
from common.engine.cpu.parallel import launch_threads

Compiled = Callable[..., Any]
Decorator = Callable[[Callable[..., Any]], Compiled]

_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def kernel(*, signature: object = None, variant: str = "") -> Decorator:
    """Compile a function at its first call, or now for `signature` alone.

    `variant` names the constants that a closure holds: kernels of one source line that differ in them
    must differ in it. Division by zero gives what IEEE 754 says, not an exception. The first call and every
    later one raise KernelError where it cannot be linked.
    """
    guard()

    def compile_later(function: Callable[..., Any]) -> Compiled:
        dispatcher = numba.njit(**_OPTIONS)(function)
        name = f"{function.__module__}.{function.__qualname__}/{variant}"
        cache = KernelCache(name, kernels_dir(), dispatcher._reset_overloads)
        dispatcher._cache = cache
        dispatcher.compile = _giving_up(dispatcher.compile, cache)
        if signature is not None:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher  # type: ignore[no-any-return]

    return compile_later


def part(
    *,
    fastmath: Set[str] = frozenset(),
    variant: str = "",
    are_distinct: bool = False,
    allocates: bool = True,
) -> Decorator:
    """Make a function a part of kernels; `variant` names its constants, as for a kernel.

    `are_distinct` promises that no number written to one array is read from another later.

    Code of one name is linked once in a process, and each process numbers names anew. Without `variant`, two
    kernels from disk that two processes compiled would share the part of the one loaded first.
    """
    options = _OPTIONS | {"fastmath": set(fastmath), "no_cpython_wrapper": True, "_nrt": allocates}

    def compile_with_its_kernel(function: Callable[..., Any]) -> Compiled:
        function.__qualname__ += f".{variant}" if variant else ""
        dispatcher: Compiled = numba.njit(**options)(function)
        if are_distinct:
            dispatcher._compiler._customize_flags = _without_aliases  # type: ignore[attr-defined]
        return dispatcher

    return compile_with_its_kernel


def _without_aliases(flags: Any) -> Any:
    flags.noalias = True
    return flags


def _giving_up(compile_one: Compiled, cache: KernelCache) -> Compiled:
    """Make a `compile` that leaves no lock behind where it fails: what failed is never saved."""

    def compile_or_give_up(signature: Any) -> Any:
        # also around the clean-up: other threads compile this kernel too
        with global_compiler_lock:
            launch_threads()
            try:
                return compile_one(signature)
            finally:
                cache.give_up()

    return compile_or_give_up
