"""Tasks: the calls of a kernel's part that cover a range, made by threads of the pool.

A task is a function of the type that numba's pool calls, and memory with what it is told: the range's end,
the number of runs that it is cut into, a flag that a call has failed, and the part's arguments.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types

from common.engine.cpu.emit import I32, Builder, Context

I64, BYTES = ir.IntType(64), ir.IntType(8).as_pointer()
TASK = ir.FunctionType(
    ir.VoidType(), [BYTES.as_pointer(), I64.as_pointer(), I64.as_pointer(), BYTES]
)
HEAD = (I64, I64, I32)
COUNT, NUM_RUNS, HAS_FAILED = range(len(HEAD))
# the pool adds a run's number to this pointer; it would pass on a null pointer as it is
FIRST_RUN = 1


class Task(NamedTuple):
    """Function of a task, and the type of what it is told."""

    function: Any
    told: ir.LiteralStructType


def make_task(context: Context, module: Any, part: Any, kinds: Sequence[ir.Type]) -> Task:
    """Make the function that the pool calls: it finds its run, and calls the part."""
    told = ir.LiteralStructType([*HEAD, *kinds])
    function = ir.Function(module, TASK, module.get_unique_name("task"))
    function.linkage = "internal"
    function.attributes.add(
        "noinline"
    )  # else a kernel has its part twice: for one run, and for more
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    runs, sizes, _, data = function.args
    data = builder.bitcast(data, told.as_pointer())
    pointers = [cgutils.gep_inbounds(builder, data, 0, i) for i in range(len(told.elements))]
    count, num_runs = (builder.load(pointers[i]) for i in (COUNT, NUM_RUNS))
    values = [builder.load(pointer) for pointer in pointers[len(HEAD) :]]
    first_run = builder.sub(builder.ptrtoint(builder.load(runs), I64), I64(FIRST_RUN))
    callee = context.declare_function(module, part)
    with cgutils.for_range(builder, builder.load(sizes)) as loop:
        run = builder.add(first_run, loop.index)
        ends = [_begin(builder, count, num_runs, r) for r in (run, builder.add(run, I64(1)))]
        status, _ = context.call_conv.call_function(
            builder, callee, types.none, part.argtypes, [*ends, *values]
        )
        with builder.if_then(status.is_error, likely=False):
            builder.store(I32(1), pointers[HAS_FAILED])
    builder.ret_void()
    return Task(function, told)


def run_task(builder: Builder, function: Any, data: Any, num_runs: Any) -> None:
    """Call a task for its runs: one of them here, several on the pool's threads."""
    sizes, steps, first = (cgutils.alloca_once(builder, kind) for kind in (I64, I64, BYTES))
    builder.store(num_runs, sizes)
    builder.store(I64(1), steps)
    builder.store(I64(FIRST_RUN).inttoptr(BYTES), first)
    with builder.if_then(builder.icmp_signed("==", num_runs, I64(1))):
        builder.call(function, [first, sizes, steps, data])
    with builder.if_then(builder.icmp_signed(">", num_runs, I64(1))):
        given = [builder.bitcast(x, BYTES) for x in (function, first, sizes, steps)]
        numbers = [I64(0), I64(1), builder.trunc(num_threads(builder), I32)]
        call_native(builder, "numba_parallel_for", ir.VoidType(), *given, data, *numbers)


def num_threads(builder: Builder) -> Any:
    """Return the number of threads that this thread's kernels may use."""
    return builder.sext(call_native(builder, "get_num_threads", I32), I64)


def call_native(builder: Builder, name: str, result: ir.Type, *args: Any) -> Any:
    """Call a function of this process by its name."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, list(args))


def _begin(builder: Builder, count: Any, num_runs: Any, run: Any) -> Any:
    """Compute where a run begins: the first ones are longer by one, as many as it takes."""
    rest = builder.srem(count, num_runs)
    longer = builder.select(builder.icmp_signed("<", run, rest), run, rest)
    return builder.add(builder.mul(run, builder.sdiv(count, num_runs)), longer)
