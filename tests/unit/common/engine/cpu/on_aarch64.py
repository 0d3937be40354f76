"""A process that compiles every kernel as aarch64 has it, prints what its object files ask for, and ends.

The kernels are shaped for NEON and compiled here first, where they run too; the LLVM code of each is then
compiled for aarch64.
"""

import re

import llvmlite.binding as llvm

import common.engine.cpu.target as target

_TRIPLE = "aarch64-unknown-linux-gnu"
_DTYPES = ("float32", "bfloat16", "float16")


def main() -> None:
    """Compile, and print the symbols that nothing here defines, one a line."""
    neon = target.Target("generic", "neon")
    target.host_target = lambda: neon  # before any kernel is shaped

    from common.engine.cpu import linking
    from common.engine.kernel_checks import attention, products, sampling
    from common.engine.kernel_checks.verdicts import AttentionShape

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(_TRIPLE).create_target_machine(cpu="generic")
    modules: list[str] = []
    linking.guard().on_compiled = modules.append
    for dtype in _DTYPES:
        attention.check(AttentionShape(dtype, 16, 64, 3))
        for activation in ("silu", "gelu_tanh"):
            products.check(dtype, activation)
    sampling.check()
    names: set[str] = set()
    for code in modules:
        names.update(linking.undefined_symbols(machine.emit_object(_for_aarch64(code, machine))))
    print(len(modules))
    print(*sorted(name for name in names if llvm.address_of_symbol(name) is None), sep="\n")


def _for_aarch64(code: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    code = re.sub(r"target triple = .*", f'target triple = "{_TRIPLE}"', code)
    layout = str(machine.target_data)
    return llvm.parse_assembly(re.sub(r"target datalayout = .*", f'target datalayout = "{layout}"', code))


if __name__ == "__main__":
    main()
