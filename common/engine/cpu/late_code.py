"""Machine code of a kernel, made once: numba would make it anew for each part that the kernel is made of.

numba optimises each function and compiles it to machine code. Then it links it into its callers, and
optimises and compiles it once more with each of them. Here a function is optimised and compiled when
somebody asks for its address or its object file. Nobody asks for those of a part.
"""

from typing import Any

import llvmlite.binding as llvm
from numba.core.codegen import JITCodeLibrary
from numba.core.environment import lookup_environment
from numba.core.runtime import _nrt_python

_ENVIRONMENT = "_ZN08NumbaEnv"


class LateLibrary(JITCodeLibrary):  # type: ignore[misc]  # numba has no types
    """Code of one function with its parts, that stays LLVM's until its machine code is asked for."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.has_code = False

    def get_pointer_to_function(self, name: str) -> int:
        """Return the address of a function; 0 if the library does not define it."""
        self._ensure_finalized()
        if any(not f.is_declaration and f.name == name for f in self._final_module.functions):
            self._make_code()
        address: int = super().get_pointer_to_function(name)
        return address

    def serialize_using_object_code(self) -> tuple[str, str, tuple[bytes, bytes]]:
        """Return what a file keeps: machine code, and the names that it defines in place of LLVM's code."""
        return self.name, "object", (self._get_compiled_object(), self._names_alone().as_bitcode())

    def _names_alone(self) -> Any:
        module, external = self._final_module, llvm.Linkage.external
        functions = [f.name for f in module.functions if f.linkage == external]
        defined = [f for f in functions if not module.get_function(f).is_declaration]
        variables = [v.name for v in module.global_variables if v.name.startswith(_ENVIRONMENT)]
        lines = [f'define void @"{name}"() {{ ret void }}' for name in defined]
        lines += [f'@"{name}" = common global ptr null' for name in variables]
        return llvm.parse_assembly("\n".join(lines))

    def _get_module_for_linking(self) -> Any:
        if self._disable_inspection:
            raise RuntimeError(f"{self.name} was loaded from disk: only parts can be linked")
        return super()._get_module_for_linking()

    def _get_compiled_object(self) -> bytes:
        self._make_code()
        content: bytes = super()._get_compiled_object()
        return content

    def _optimize_final_module(self) -> None:
        """Do nothing: `_make_code` optimises, if it comes to that."""

    def _finalize_final_module(self) -> None:
        if self._disable_inspection:  # loaded from disk: it comes with its machine code
            self.has_code = True
            super()._finalize_final_module()
        self._finalized = True

    def _make_code(self) -> None:
        if self.has_code:
            return
        self.has_code = True
        super()._optimize_final_module()
        self._final_module.verify()
        super()._finalize_final_module()
        # parts find their environments, of which errors are made, by name
        for name in [variable.name for variable in self._final_module.global_variables]:
            environment = lookup_environment(name) if name.startswith(_ENVIRONMENT) else None
            if environment is not None:
                self._codegen.set_env(name, environment)


def name_runtime() -> None:
    """Make the functions that manage memory of arrays known to LLVM: numba itself compiles some first."""
    for name, address in _nrt_python.c_helpers.items():
        llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def make_code_late(codegen: Any) -> None:
    """Have a numba codegen make its libraries from now on so."""
    set_at_once = codegen.set_env

    def set_env(name: str, environment: object) -> None:
        if codegen._engine.is_symbol_defined(name):
            set_at_once(name, environment)

    codegen._library_class, codegen.set_env = LateLibrary, set_env
