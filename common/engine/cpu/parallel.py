"""Work of a kernel on all threads, as a numba intrinsic: a loop is cut into one run for each thread.

numba's own `prange` does the same. But it makes three functions of a loop, and compiles each of them apart:
the half of a kernel's compilation. It also takes the GIL for a moment at every call.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.types.misc import unliteral
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numba.np.ufunc import parallel as pool

from common.engine.cpu.emit import I32, Builder, Context, Values

_I64, _BYTES = ir.IntType(64), ir.IntType(8).as_pointer()
_TASK = ir.FunctionType(
    ir.VoidType(), [_BYTES.as_pointer(), _I64.as_pointer(), _I64.as_pointer(), _BYTES]
)
# the pool adds a run's number to this pointer; it would pass on a null pointer as it is
_FIRST_RUN = 1
_COUNT, _NUM_RUNS, _HAS_FAILED, _NUM_FIELDS = range(4)


def launch_threads() -> None:
    """Start numba's pool of threads, unless it runs: before that, kernels find no symbols of it."""
    pool._launch_threads()


@intrinsic
def in_parallel(ctx, count, body, args):  # type: ignore[no-untyped-def]
    """Call body(first, end, *args) for runs that cover range(count), each on a thread of its own.

    `body` is a part (jit.py) that returns nothing, `args` a tuple. Raises MemoryError if a call has failed.
    """
    kinds = (types.intp, types.intp, *map(unliteral, args))
    body.get_call_type(ctx, kinds, {})
    compiled = body.dispatcher.overloads[kinds]

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        values = cgutils.unpack_tuple(builder, args[2], len(kinds) - 2)
        told = ir.LiteralStructType([_I64, _I64, I32, *(value.type for value in values)])
        context.active_code_library.add_linking_library(compiled.library)
        task = _task(context, builder.module, compiled.fndesc, told)
        with builder.goto_entry_block():  # cgutils would fill it with zeros, field by field
            data = builder.alloca(told)
        threads = builder.sext(_call(builder, "get_num_threads", I32), _I64)
        is_short = builder.icmp_signed("<", args[0], threads)
        num_runs = builder.select(is_short, args[0], threads)
        fields = [args[0], num_runs, ir.Constant(I32, 0), *values]
        for i, field in enumerate(fields):
            builder.store(field, cgutils.gep_inbounds(builder, data, 0, i))
        with builder.if_then(builder.icmp_signed(">", args[0], _I64(0))):
            _run(builder, task, num_runs, builder.bitcast(data, _BYTES), threads)
        failed = builder.load(cgutils.gep_inbounds(builder, data, 0, _HAS_FAILED))
        with cgutils.if_unlikely(builder, builder.icmp_signed("!=", failed, I32(0))):
            context.call_conv.return_user_exc(builder, MemoryError, ("a kernel's part failed",))
        return context.get_dummy_value()

    return types.void(types.intp, body, args), generate


def _run(builder: Builder, task: Any, num_runs: Any, data: Any, threads: Any) -> None:
    """Have the pool call the task for each run."""
    sizes, steps, first = (cgutils.alloca_once(builder, kind) for kind in (_I64, _I64, _BYTES))
    builder.store(num_runs, sizes)
    builder.store(_I64(1), steps)
    builder.store(_I64(_FIRST_RUN).inttoptr(_BYTES), first)
    given = [builder.bitcast(x, _BYTES) for x in (task, first, sizes, steps)]
    numbers = [_I64(0), _I64(1), builder.trunc(threads, I32)]
    _call(builder, "numba_parallel_for", ir.VoidType(), *given, data, *numbers)


def _task(context: Context, module: Any, part: Any, told: Any) -> Any:
    """Make the function that the pool calls: it finds its run, and calls the part."""
    function = ir.Function(module, _TASK, module.get_unique_name("task"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    runs, sizes, _, data = function.args
    data = builder.bitcast(data, told.as_pointer())
    pointers = [cgutils.gep_inbounds(builder, data, 0, i) for i in range(len(told.elements))]
    count, num_runs = (builder.load(pointers[i]) for i in (_COUNT, _NUM_RUNS))
    values = [builder.load(pointer) for pointer in pointers[_NUM_FIELDS:]]
    first_run = builder.sub(builder.ptrtoint(builder.load(runs), _I64), _I64(_FIRST_RUN))
    callee = context.declare_function(module, part)
    with cgutils.for_range(builder, builder.load(sizes)) as loop:
        run = builder.add(first_run, loop.index)
        ends = [_begin(builder, count, num_runs, r) for r in (run, builder.add(run, _I64(1)))]
        status, _ = context.call_conv.call_function(
            builder, callee, types.none, part.argtypes, [*ends, *values]
        )
        with builder.if_then(status.is_error, likely=False):
            builder.store(I32(1), pointers[_HAS_FAILED])
    builder.ret_void()
    return function


def _begin(builder: Builder, count: Any, num_runs: Any, run: Any) -> Any:
    """Compute where a run begins: the first ones are longer by one, as many as it takes."""
    rest = builder.srem(count, num_runs)
    longer = builder.select(builder.icmp_signed("<", run, rest), run, rest)
    return builder.add(builder.mul(run, builder.sdiv(count, num_runs)), longer)


def _call(builder: Builder, name: str, result: ir.Type, *args: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, list(args))
