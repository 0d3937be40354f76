"""Guard between LLVM's compiler and its linker: an unknown symbol must not end the process.

LLVM turns some operations that a CPU lacks into calls of functions that need not exist in this process; its
linker then aborts. So the symbols that an object file asks for are looked up before it is linked. An
unknown one is bound to a harmless address and remembered, and the compilation then fails (kernel_cache.py).
"""

import ctypes
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from common.engine.cpu.late_code import make_code_late
from common.engine.cpu.tape import name_tape

_SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_SYMBOL_TABLE = 2
_UNDEFINED = 0

Hook = Callable[[Any, bytes], None]


class KernelError(Exception):
    """Raised for a kernel that cannot be built on this CPU; torch's operations take its place."""


class SymbolGuard:
    """Object cache hooks of an LLVM engine, which see every object file before it is linked."""

    def __init__(self) -> None:
        self._unknown: set[str] = set()  # bound to nothing
        self._missing: set[str] = set()  # those of them asked for since `take_missing`
        # any address that can be linked; the code is never run
        self._stub = ctypes.CFUNCTYPE(None)(_never)

    def install(self, codegen: Any) -> None:
        """Guard the engine of a numba codegen."""
        hooks = codegen._library_class

        def compiled(module: Any, content: bytes) -> None:
            self.admit(content)
            hooks._object_compiled_hook(module, content)

        def loaded(module: Any) -> bytes | None:
            content: bytes | None = hooks._object_getbuffer_hook(module)
            if content is not None:
                self.admit(content)
            return content

        codegen._engine.set_object_cache(compiled, loaded)

    def admit(self, content: bytes) -> None:
        """Let an object file be linked; its unknown symbols are bound to nothing and remembered."""
        names = undefined_symbols(content)
        for name in names:
            if llvm.address_of_symbol(name) is None:
                self._unknown.add(name)
                llvm.add_symbol(name, ctypes.cast(self._stub, ctypes.c_void_p).value)
        self._missing |= self._unknown.intersection(names)

    def take_missing(self) -> list[str]:
        """Return the unknown symbols since the last call, sorted."""
        found = sorted(self._missing)
        self._missing.clear()
        return found


@cache
def guard() -> SymbolGuard:
    """Return the guard of numba's engine in this process, installed."""
    from numba.core.registry import cpu_target

    codegen = cpu_target.target_context.codegen()
    make_code_late(codegen)
    name_tape()
    made = SymbolGuard()
    made.install(codegen)
    return made


def undefined_symbols(content: bytes) -> list[str]:
    """Return the names that a 64-bit little-endian ELF object file imports. Raises ValueError."""
    if content[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit ELF file")
    return [name for name, section in _symbols(content) if name and section == _UNDEFINED]


def _symbols(content: bytes) -> Iterator[tuple[str, int]]:
    (at,), (size, count) = (
        struct.unpack_from("<Q", content, 40),
        struct.unpack_from("<HH", content, 58),
    )
    sections = [_SECTION.unpack_from(content, at + i * size) for i in range(count)]
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind != _SYMBOL_TABLE:
            continue
        names = sections[link][4]
        for spot in range(offset, offset + length, _SYMBOL.size):
            name_at, _, _, section, _, _ = _SYMBOL.unpack_from(content, spot)
            end = content.index(b"\0", names + name_at)
            yield content[names + name_at : end].decode(), section


def _never() -> None:
    raise AssertionError("a kernel with an unknown symbol was run")
