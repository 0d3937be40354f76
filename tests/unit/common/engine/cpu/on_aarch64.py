"""A process that compiles kernels for aarch64 and prints which symbols they lack there.

`python on_aarch64.py "FAMILY DTYPE" ...` prints a line of JSON for each. The kernels are shaped for NEON and
tried here first, where LLVM maps the same code to this CPU; the code of each, before it becomes instructions,
is then compiled for aarch64.
"""

import json
import re
import sys
from typing import Any

import llvmlite.binding as llvm
from numba.core.codegen import CPUCodeLibrary

import common.engine.cpu.target as target
from common.telemetry.logs import configure_logs

_TRIPLE = "aarch64-unknown-linux-gnu"
# of libgcc, for what an architecture lacks: none may be relied on
_HELPERS = ("__aarch64_", "__trunc", "__extend", "__fix", "__float", "__mul", "__div")
_COUNT_DOWN = re.compile(
    r"%(\S+) = (?:tail )?call i8 @llvm.x86.atomic.sub.cc.i64\(ptr (?:\w+ )*(%[^,]+), i64 1, i32 4\).*"
)
_COUNT_DOWN_PLAINLY = (
    r"%down.\1.old = atomicrmw sub ptr \2, i64 1 monotonic\n"
    r"%down.\1.last = icmp eq i64 %down.\1.old, 1\n"
    r"%\1 = zext i1 %down.\1.last to i8"
)
_NEON = target.Target("generic", "neon")


def main(asked: list[str]) -> None:
    """Print each family's number of modules, that of symbols asked for, and those that nothing defines."""
    target.host_target = lambda: _NEON  # type: ignore[assignment]  # before any kernel is shaped
    modules = record_modules()
    configure_logs("error", process="on_aarch64")  # stdout is for results

    from common.engine.cpu.linking import undefined_symbols

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(_TRIPLE).create_target_machine(cpu="generic")
    for family, dtype in map(str.split, asked):
        modules.clear()
        try_family(family, dtype)
        objects = [machine.emit_object(for_aarch64(code, machine)) for code in modules]
        names = {name for one in objects for name in undefined_symbols(one)}
        unknown = sorted(name for name in names if not is_defined(name))
        print(json.dumps([len(objects), len(names), unknown]), flush=True)


def try_family(family: str, dtype: str) -> None:
    """Compile and try the kernels of a family."""
    from common.engine.fused.quantize import PanelForm
    from common.engine.kernel_checks import attention, products, sampling
    from common.engine.kernel_checks.verdicts import AttentionShape

    if family == "attention":
        attention.check(AttentionShape(dtype, 16, 64, 3, has_extras=True))
    elif family == "latent-attention":
        attention.check(AttentionShape(dtype, 16, 48, 3, value_dim=32, is_latent=True))
    elif family == "int8-kv-attention":
        attention.check(AttentionShape(dtype, 16, 64, 3, kv_quantization="int8"))
    elif family == "products":
        for activation in ("silu", "gelu_tanh"):
            products.check(dtype, activation)
    elif family == "int4-products":
        for form in ("int4", PanelForm(4, True, "int8"), PanelForm(8, False, "int8")):
            products.check(dtype, "silu", form)
    else:
        sampling.check()


def is_defined(name: str) -> bool:
    """Return True if a process has the symbol on aarch64: numba's helpers, libm and libc."""
    return llvm.address_of_symbol(name) is not None and not name.startswith(_HELPERS)


def record_modules() -> list[str]:
    """Record the code of every library that numba finishes from now on; the list grows."""
    modules: list[str] = []
    finish = CPUCodeLibrary._finalize_final_module

    def recorded(library: Any) -> None:
        modules.append(str(library._final_module))
        finish(library)

    CPUCodeLibrary._finalize_final_module = recorded
    return modules


def for_aarch64(code: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """Return the same module for another architecture.

    A part that was made for this CPU already, as parts of a kernel are, counts its references by an
    instruction of x86; it is put back into LLVM's own words.
    """
    code = _COUNT_DOWN.sub(_COUNT_DOWN_PLAINLY, code)
    code = re.sub(r"target triple = .*", f'target triple = "{_TRIPLE}"', code)
    layout = f'target datalayout = "{machine.target_data}"'
    return llvm.parse_assembly(re.sub(r"target datalayout = .*", layout, code))


if __name__ == "__main__":
    main(sys.argv[1:])
