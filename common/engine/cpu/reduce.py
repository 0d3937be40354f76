"""Reductions of a row of stored numbers, as numba intrinsics.

Four sums run side by side, since each addition waits for the one before it.
"""

from functools import reduce
from typing import Any

from numba.core import cgutils, types
from numba.core.types.containers import UniTuple
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import LANES, Builder, Context, Values

STRIDE = 4 * LANES


@intrinsic
def peak_and_total(ctx, row, at, count):  # type: ignore[no-untyped-def]
    """Return maximum (NaN is passed over) and sum of row[at : at + count]; STRIDE divides `count`."""
    sig = UniTuple(types.float32, 2)(row, types.intp, types.intp)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data = emit.array_data(context, builder, sig, args, 0)
        peaks, sums = (
            [emit.variable(builder, emit.constant(start)) for _ in range(STRIDE // LANES)]
            for start in (float("-inf"), 0.0)
        )
        strides = builder.udiv(args[2], emit.index(STRIDE))
        with cgutils.for_range(builder, strides) as loop:
            base = emit.multiply_add(builder, loop.index, STRIDE, args[1])
            for part, (peak, total) in enumerate(zip(peaks, sums, strict=True)):
                here = builder.add(base, emit.index(part * LANES))
                numbers = emit.load(builder, data, here, sig.args[0])
                builder.store(emit.larger(builder, numbers, builder.load(peak)), peak)
                builder.store(builder.fadd(builder.load(total), numbers), total)
        combined = (
            _combine(builder, variables, how)
            for variables, how in ((peaks, emit.larger), (sums, emit.add))
        )
        return context.make_tuple(builder, sig.return_type, list(combined))

    return sig, generate


@intrinsic(prefer_literal=True)
def softmax_total(ctx, row, at, peak, slope, count):  # type: ignore[no-untyped-def]
    """Sum softmax_weights over row[at : at + count]; `count` is a multiple of STRIDE."""
    numbers = emit.literal(count)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data = emit.array_data(context, builder, sig, args, 0)
        peaks, slopes = emit.splat(builder, args[2]), emit.splat(builder, args[3])
        sums = [emit.variable(builder, emit.constant(0.0)) for _ in range(STRIDE // LANES)]
        with cgutils.for_range(builder, emit.index(numbers // STRIDE)) as loop:
            base = emit.multiply_add(builder, loop.index, STRIDE, args[1])
            for part, total in enumerate(sums):
                here = builder.add(base, emit.index(part * LANES))
                below = builder.fsub(emit.load(builder, data, here, sig.args[0]), peaks)
                weight = emit.exp(builder, builder.fmul(below, slopes))
                builder.store(builder.fadd(builder.load(total), weight), total)
        return _combine(builder, sums, emit.add)

    return types.float32(row, types.intp, types.float32, types.float32, count), generate


def _combine(builder: Builder, variables: list[Any], how: Any) -> Any:
    vectors = [builder.load(variable) for variable in variables]
    return emit.across(builder, reduce(lambda a, b: how(builder, a, b), vectors), how)
