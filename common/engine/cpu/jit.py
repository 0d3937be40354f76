"""Decorator that compiles every kernel: without the GIL, cached on disk by kernel_cache.py.

A kernel that cannot be linked raises KernelError at its first call, and at every later one.
"""

from collections.abc import Callable, Set
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import register_jitable

from common.engine.cpu.kernel_cache import KernelCache, kernels_dir
from common.engine.cpu.linking import guard

Compiled = Callable[..., Any]


def kernel(
    *,
    parallel: bool = True,
    fastmath: Set[str] = frozenset(),
    signature: object = None,
    variant: str = "",
) -> Callable[[Callable[..., Any]], Compiled]:
    """Compile a function at its first call, or now for `signature` alone.

    `variant` names the constants that a closure holds: kernels of one source line that differ in them
    must differ in it. Division by zero gives what IEEE 754 says, not an exception. Raises KernelError.
    """
    guard()

    def compile_later(function: Callable[..., Any]) -> Compiled:
        options = {"parallel": parallel, "nogil": True, "error_model": "numpy"}
        dispatcher = numba.njit(fastmath=set(fastmath), **options)(function)
        name = f"{function.__module__}.{function.__qualname__}/{variant}"
        cache = KernelCache(name, kernels_dir(), dispatcher._reset_overloads)
        dispatcher._cache = cache
        dispatcher.compile = _giving_up(dispatcher.compile, cache)
        if signature is not None:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher  # type: ignore[no-any-return]

    return compile_later


def _giving_up(compile_one: Compiled, cache: KernelCache) -> Compiled:
    """Make a `compile` that leaves no lock behind where it fails: what failed is never saved."""

    def compile_or_give_up(signature: Any) -> Any:
        # also around the clean-up: other threads compile this kernel too
        with global_compiler_lock:
            try:
                return compile_one(signature)
            finally:
                cache.give_up()

    return compile_or_give_up


def inlined(function: Callable[..., Any], variant: str) -> Compiled:
    """Make a function a part of kernels; `variant` names its constants, as for a kernel.

    Code of one name is linked once in a process, and each process numbers names anew. Without `variant`, two
    kernels from disk that two processes compiled would share the part of the one loaded first.
    """
    function.__qualname__ += f".{variant}"
    return register_jitable(function)  # type: ignore[no-any-return]
