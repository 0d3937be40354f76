"""Vector instructions for the CPU kernels, as numba intrinsics that emit LLVM IR.

Auto-vectorised loops reload their accumulators from memory on every step. Here these stay in registers,
which makes a matrix product fast. The IR is plain vector code, so LLVM maps it to whatever the
machine has. Numbers are stored as float32, bfloat16 (seen as uint16) or float16 (int16); arithmetic is
float32.

All offsets count elements from an array's first. Sizes must be compile-time constants.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit, kv_levels, packed
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.packed import Source, pack_of
from common.engine.cpu.softmax import TILE
from common.engine.cpu.target import host_target


@intrinsic(prefer_literal=True)
def accumulate_block(ctx, p, p_at, values, v_at, ahead, count, acc, acc_at, rows, dim):  # type: ignore[no-untyped-def]
    """acc[r, 0:dim] += p[r, 0:count] . the first `count` values of a block [size / pack, dim, pack].

    Values of int8 are rows with a scale each (kv_levels.py). Meanwhile the memory is asked for the block
    of values at `ahead`, unless that is None.
    """
    n, d, i64 = emit.literal(rows), emit.literal(dim), types.intp
    sig = types.void(p, i64, values, i64, ahead, i64, acc, i64, rows, dim)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        weights, block = (
            Source(emit.array_data(context, builder, sig, args, i), args[i + 1], sig.args[i])
            for i in (0, 2)
        )
        acc_data = emit.array_data(context, builder, sig, args, 6)
        next_block = None if ahead == types.none else args[4]
        # columns whose sums fit in registers beside their inputs
        panel = max(host_target().value_sums // n, 1) * LANES
        for start in range(0, d, panel):
            columns = range(start, min(start + panel, d), LANES)
            spots = [builder.add(args[7], emit.index(r * d + c)) for r in range(n) for c in columns]
            sums = [emit.variable(builder, emit.load_f32(builder, acc_data, at)) for at in spots]
            accumulate = kv_levels.add_values if values.dtype == types.int8 else _accumulate
            accumulate(builder, args[5], weights, block, d, columns, sums, next_block)
            for at, total in zip(spots, sums, strict=True):
                emit.store(builder, builder.load(total), acc_data, at)
        return context.get_dummy_value()

    return sig, generate


def _accumulate(
    builder: Builder,
    count: Any,
    weights: Source,
    block: Source,
    dim: int,
    columns: range,
    sums: list[Any],
    ahead: Any,
) -> None:
    """Add `count` positions to sums[row, column]. The odd one's partner was perhaps never written."""
    pack = pack_of(block.array)

    def add(step: Any, is_odd: bool) -> None:
        at = emit.multiply_add(builder, step, dim * pack, block.base)
        spots = [builder.add(at, emit.index(column * pack)) for column in columns]
        if ahead is not None:
            row = emit.multiply_add(builder, step, dim * pack, ahead)
            packed.prefetch_columns(builder, block, row, columns, pack)
        for number in range(1 if is_odd else packed.num_parts(block.array)):
            emit.keep_order(builder)
            partners = [
                packed.broadcast_part(builder, weights, step, r * TILE, pack, number)
                for r in range(len(sums) // len(columns))
            ]
            for c, spot in enumerate(spots):
                value = packed.load(builder, block.data, spot, block.array, is_odd)[number]
                for r, partner in enumerate(partners):
                    packed.add_product(builder, sums[r * len(columns) + c], partner, value)

    whole = builder.udiv(count, emit.index(pack))
    with cgutils.for_range(builder, whole) as loop:
        add(loop.index, is_odd=False)
    if pack > 1:
        rest = builder.urem(count, emit.index(pack))
        with builder.if_then(builder.icmp_unsigned("!=", rest, emit.index(0))):
            add(whole, is_odd=True)


@intrinsic(prefer_literal=True)
def copy_row(ctx, row, out, at, count):  # type: ignore[no-untyped-def]
    """out[at:] = row[0:count], of one dtype or `out` in float32. `row` must be contiguous, whatever its
    type says."""
    numbers = emit.literal(count)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        source, target = (emit.array_data(context, builder, sig, args, i) for i in (0, 1))
        kind = ir.VectorType(source.type.pointee, LANES)
        for offset in map(emit.index, range(0, numbers, LANES)):
            spot = builder.add(args[2], offset)
            if sig.args[1].dtype == types.float32:
                emit.store(builder, emit.load(builder, source, offset, sig.args[0]), target, spot)
                continue
            vector = emit.aligned_load(builder, builder.gep(source, [offset]), kind, 2)
            pointer = builder.bitcast(builder.gep(target, [spot]), kind.as_pointer())
            builder.store(vector, pointer, align=2)
        return context.get_dummy_value()

    return types.void(row, out, types.intp, count), generate


@intrinsic(prefer_literal=True)
def divide_row(ctx, numbers, at, total, row, first, count):  # type: ignore[no-untyped-def]
    """row[first:] = numbers[at:] / total, for `count` numbers, rounded to the row's dtype."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data, out = (emit.array_data(context, builder, sig, args, i) for i in (0, 3))
        for offset in map(emit.index, range(0, emit.literal(count), LANES)):
            sums = emit.load_f32(builder, data, builder.add(args[1], offset))
            quotients = builder.fdiv(sums, emit.splat(builder, args[2]))
            emit.store_as(builder, quotients, out, builder.add(args[4], offset), sig.args[3])
        return context.get_dummy_value()

    i64 = types.intp
    return types.void(numbers, i64, types.float32, row, i64, count), generate


@intrinsic
def softmax_weights(ctx, row, at, peak, slope, out):  # type: ignore[no-untyped-def]
    """out[0:LANES] = exp((row[at:] - peak) * slope) for stored numbers no larger than `peak`."""
    sig = types.void(row, types.intp, types.float32, types.float32, out)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data, out_data = (emit.array_data(context, builder, sig, args, i) for i in (0, 4))
        below = builder.fsub(
            emit.load(builder, data, args[1], sig.args[0]), emit.splat(builder, args[2])
        )
        weights = emit.exp(builder, builder.fmul(below, emit.splat(builder, args[3])))
        emit.store(builder, weights, out_data, emit.index(0))
        return context.get_dummy_value()

    return sig, generate


@intrinsic
def widen(ctx, bits):  # type: ignore[no-untyped-def]
    """Widen one stored number to float32."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        if sig.args[0] == types.float32:
            return args[0]
        if sig.args[0] == types.int16:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), emit.F32)
        return emit.widened_bfloat(builder, args[0])

    return types.float32(bits), generate


@intrinsic
def narrow(ctx, like, number):  # type: ignore[no-untyped-def]
    """Round a float32 to the dtype of `like`, to nearest, ties to even."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        number = args[1]
        if sig.args[0] == types.float32:
            return number
        if sig.args[0] == types.int16:
            return builder.bitcast(builder.fptrunc(number, ir.HalfType()), ir.IntType(16))
        return emit.rounded_bfloat(builder, number)

    return like(like, types.float32), generate
