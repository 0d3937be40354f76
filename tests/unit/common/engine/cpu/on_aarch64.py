"""A process that compiles kernels for aarch64 and prints what their object files ask others for.

`python on_aarch64.py DTYPE ...`. The kernels are shaped for NEON and tried here first, where LLVM maps the
same code to this CPU; the code of each, before it becomes instructions, is then compiled for aarch64.
"""

import re
import sys
from typing import Any

import llvmlite.binding as llvm
from numba.core.codegen import CPUCodeLibrary

import common.engine.cpu.target as target

_TRIPLE = "aarch64-unknown-linux-gnu"
_NEON = target.Target("generic", "neon")


def main(dtypes: list[str]) -> None:
    """Print the number of modules, then the symbols, one a line."""
    target.host_target = lambda: _NEON  # type: ignore[assignment]  # before any kernel is shaped
    modules = record_modules()

    from common.engine.cpu.linking import undefined_symbols
    from common.engine.kernel_checks import attention, products, sampling
    from common.engine.kernel_checks.verdicts import AttentionShape

    for dtype in dtypes:
        attention.check(AttentionShape(dtype, 16, 64, 3))
        for activation in ("silu", "gelu_tanh"):
            products.check(dtype, activation)
    sampling.check()

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(_TRIPLE).create_target_machine(cpu="generic")
    objects = [machine.emit_object(for_aarch64(code, machine)) for code in modules]
    print(len(objects))
    print(*sorted({name for one in objects for name in undefined_symbols(one)}), sep="\n")


def record_modules() -> list[str]:
    """The code of every library that numba finishes from now on; the list grows."""
    modules: list[str] = []
    finish = CPUCodeLibrary._finalize_final_module

    def recorded(library: Any) -> None:
        modules.append(str(library._final_module))
        finish(library)

    CPUCodeLibrary._finalize_final_module = recorded
    return modules


def for_aarch64(code: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """The same module for another architecture."""
    code = re.sub(r"target triple = .*", f'target triple = "{_TRIPLE}"', code)
    layout = f'target datalayout = "{machine.target_data}"'
    return llvm.parse_assembly(re.sub(r"target datalayout = .*", layout, code))


if __name__ == "__main__":
    main(sys.argv[1:])
