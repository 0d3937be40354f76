"""Noted tasks run by one team of threads, which stays together from the first to the last.

The pool gathers its threads for each task, which takes longer than a task with one row. A barrier between
tasks takes a quarter of that. Only OpenMP promises that all threads run at once, so that they can wait for
each other. GNU's and LLVM's have these functions.
"""

import ctypes
from importlib import import_module

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu.emit import I32, Builder, Context, Values
from common.engine.cpu.tape import each_note, note_parts, take_failures
from common.engine.cpu.tasks import BYTES, FIRST_RUN, I64, call_native, num_threads

_NAMES = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")
_MEMBER = ir.FunctionType(ir.VoidType(), [BYTES])
_ENDS = ir.LiteralStructType([I64, I64])


def name_team() -> bool:
    """Make OpenMP's functions known to LLVM; return False where numba's threads are not OpenMP's.

    They must be those of the OpenMP that the pool uses: a second one has threads of its own, and those of
    both wait for work on the same cores. The linker gives the pool what the process has loaded for all, as
    torch does its OpenMP, before what the pool itself is linked to.
    """
    if numba.threading_layer() != "omp":
        return False
    of_all = ctypes.CDLL(None)
    of_pool = ctypes.CDLL(import_module("numba.np.ufunc.omppool").__file__)
    library = of_all if hasattr(of_all, _NAMES[0]) else of_pool
    if not all(hasattr(library, name) for name in _NAMES):
        return False
    for name in _NAMES:
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    return True


@intrinsic
def run_in_team(ctx, first, end):  # type: ignore[no-untyped-def]
    """Run the tasks noted between two addresses, as run_notes does."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> object:
        ends = cgutils.alloca_once(builder, _ENDS)
        for i in (0, 1):
            builder.store(args[i], cgutils.gep_inbounds(builder, ends, 0, i))
        given = _member(builder.module), builder.bitcast(ends, BYTES)
        numbers = builder.trunc(num_threads(builder), I32), I32(0)
        call_native(builder, "GOMP_parallel", ir.VoidType(), *given, *numbers)
        return take_failures(builder, *args)

    return types.boolean(types.intp, types.intp), generate


def _member(module: ir.Module) -> ir.Function:
    """Make what each thread runs: its runs of all tasks, with barriers between those of several runs."""
    function = ir.Function(module, _MEMBER, module.get_unique_name("member"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    ends = builder.bitcast(function.args[0], _ENDS.as_pointer())
    first, end = (builder.load(cgutils.gep_inbounds(builder, ends, 0, i)) for i in (0, 1))
    own, members = (builder.sext(call_native(builder, name, I32), I64) for name in _NAMES[2:])
    was_single = cgutils.alloca_once_value(builder, cgutils.true_bit)
    with each_note(builder, first, end) as note:
        num_runs = builder.load(note_parts(builder, note).num_runs)
        is_single = builder.icmp_signed("<=", num_runs, I64(1))
        # the first thread alone runs both
        is_next = builder.and_(is_single, builder.load(was_single))
        with builder.if_then(builder.not_(is_next)):
            call_native(builder, "GOMP_barrier", ir.VoidType())
        builder.store(is_single, was_single)
        _run_own(builder, note, num_runs, own, members)
    builder.ret_void()
    return function


def _run_own(
    builder: Builder, note: ir.Value, num_runs: ir.Value, own: ir.Value, members: ir.Value
) -> None:
    """Run a thread's runs of a task: one at most, unless OpenMP has given fewer threads."""
    function, data = note_parts(builder, note)[:2]
    begin, size = cgutils.alloca_once(builder, BYTES), cgutils.alloca_once_value(builder, I64(1))
    with cgutils.for_range_slice(builder, own, num_runs, members) as (run, _):
        builder.store(builder.inttoptr(builder.add(run, I64(FIRST_RUN)), BYTES), begin)
        builder.call(builder.load(function), [begin, size, size, data])
