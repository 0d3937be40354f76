"""Work of a kernel on all threads, as a numba intrinsic: a loop is cut into one run for each thread.

numba's own `prange` does the same. But it makes three functions of a loop, and compiles each of them apart:
the half of a kernel's compilation. It also takes the GIL for a moment at every call.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.types.containers import BaseTuple
from numba.core.types.misc import unliteral
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numba.np.ufunc import parallel as pool

from common.engine.cpu.emit import Builder, Context, Values
from common.engine.cpu.tape import run_or_record
from common.engine.cpu.tasks import make_task

_NUM_OWNERS = 2  # fields of an array that tell who owns its memory: the first ones


def launch_threads() -> None:
    """Start numba's pool of threads, unless it runs: before that, kernels find no symbols of it."""
    pool._launch_threads()


@intrinsic
def in_parallel(ctx, count, body, args):  # type: ignore[no-untyped-def]
    """Call body(first, end, *args) for runs that cover range(count), each on a thread of its own.

    `body` is a part (jit.py) that returns nothing, `args` a tuple. Raises MemoryError if a call has failed.
    While this thread records, the calls are noted and not made (tape.py).
    """
    kinds = (types.intp, types.intp, *map(unliteral, args))
    body.get_call_type(ctx, kinds, {})
    compiled = body.dispatcher.overloads[kinds]

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        values = cgutils.unpack_tuple(builder, args[2], len(kinds) - 2)
        borrowed = [_borrowed(builder, *x) for x in zip(kinds[2:], values, strict=True)]
        context.active_code_library.add_linking_library(compiled.library)
        task = make_task(context, builder.module, compiled.fndesc, [x.type for x in borrowed])
        failed = run_or_record(context, builder, task, args[0], borrowed)
        with cgutils.if_unlikely(builder, failed):
            context.call_conv.return_user_exc(builder, MemoryError, ("a kernel's part failed",))
        return context.get_dummy_value()

    return types.void(types.intp, body, args), generate


def _borrowed(builder: Builder, kind: types.Type, value: Any) -> Any:
    """Return a value whose arrays own nothing: callers hold the memory, and notes outlive a call."""
    if isinstance(kind, types.Array):
        for owner in range(_NUM_OWNERS):
            nobody = ir.Constant(value.type.elements[owner], None)
            value = builder.insert_value(value, nobody, owner)
    elif isinstance(kind, BaseTuple):
        for i, part in enumerate(kind):
            inner = _borrowed(builder, part, builder.extract_value(value, i))
            value = builder.insert_value(value, inner, i)
    return value
