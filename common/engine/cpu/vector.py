"""Vector instructions for the CPU kernels, as numba intrinsics that emit LLVM IR.

Auto-vectorised loops reload their accumulators from memory on every step; here they stay in registers,
which is what makes a matrix product fast. The IR is plain vector code, so LLVM maps it to whatever the
machine has. KV may be stored as float32, float16 or bfloat16 (seen as uint16); arithmetic is float32.

All offsets count elements from an array's first. Sizes must be compile-time constants.
"""

from functools import reduce
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import LANES, Builder, Context, Values

# key positions between two updates of the running softmax; a row of scores has this stride
TILE = 64


@intrinsic(prefer_literal=True)
def score_block(ctx, q, q_at, keys, k_at, s, s_at, rows, dim, size):  # type: ignore[no-untyped-def]
    """s[r, 0:size] = q[r, 0:dim] . keys[0:dim, 0:size] for `rows` rows of one block (keys transposed)."""
    n, d, width = emit.literal(rows), emit.literal(dim), emit.literal(size)
    # few rows make few independent sums: split each, or the adder's latency is what one waits for
    splits = next(k for k in (8, 4, 2, 1) if k * n <= 12 and d % k == 0)
    sig = types.void(q, types.intp, keys, types.intp, s, types.intp, rows, dim, size)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        q_data, k_data, s_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 2, 4)
        )
        q_base, k_base, s_base = args[1], args[3], args[5]
        for v in range(0, width, LANES):
            sums = [emit.variable(builder, emit.constant(0.0)) for _ in range(n * splits)]
            with cgutils.for_range(builder, emit.index(d // splits)) as loop:
                for k in range(splits):
                    channel = builder.add(
                        builder.mul(loop.index, emit.index(splits)), emit.index(k)
                    )
                    k_row = builder.add(k_base, builder.mul(channel, emit.index(width)))
                    key = emit.load(builder, k_data, builder.add(k_row, emit.index(v)), sig.args[2])
                    for r in range(n):
                        at = builder.add(builder.add(q_base, emit.index(r * d)), channel)
                        scalar = builder.load(builder.gep(q_data, [at]))
                        emit.add_product(
                            builder, sums[r * splits + k], emit.splat(builder, scalar), key
                        )
            for r in range(n):
                parts = [builder.load(part) for part in sums[r * splits : (r + 1) * splits]]
                total = reduce(builder.fadd, parts)
                emit.store(builder, total, s_data, builder.add(s_base, emit.index(r * TILE + v)))
        return context.get_dummy_value()

    return sig, generate


@intrinsic(prefer_literal=True)
def accumulate_block(ctx, p, p_at, values, v_at, count, acc, acc_at, rows, dim):  # type: ignore[no-untyped-def]
    """acc[r, 0:dim] += p[r, 0:count] . values[0:count, 0:dim] for `rows` rows of one block."""
    n, d = emit.literal(rows), emit.literal(dim)
    sig = types.void(p, types.intp, values, types.intp, types.intp, acc, types.intp, rows, dim)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        p_data, v_data, acc_data = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 2, 5)
        )
        p_base, v_base, count, acc_base = args[1], args[3], args[4], args[6]
        panel = min(d, 4 * LANES)  # columns whose sums fit in registers beside their inputs
        for start in range(0, d, panel):
            columns = range(start, min(start + panel, d), LANES)
            spots = [
                (r, builder.add(acc_base, emit.index(r * d + c))) for r in range(n) for c in columns
            ]
            sums = [emit.variable(builder, emit.load_f32(builder, acc_data, at)) for _, at in spots]
            with cgutils.for_range(builder, count) as loop:
                v_row = builder.add(v_base, builder.mul(loop.index, emit.index(d)))
                row_values = [
                    emit.load(builder, v_data, builder.add(v_row, emit.index(c)), sig.args[2])
                    for c in columns
                ]
                for r in range(n):
                    at = builder.add(builder.add(p_base, emit.index(r * TILE)), loop.index)
                    weight = emit.splat(builder, builder.load(builder.gep(p_data, [at])))
                    for c, value in enumerate(row_values):
                        emit.add_product(builder, sums[r * len(row_values) + c], weight, value)
            for (_, at), total in zip(spots, sums, strict=True):
                emit.store(builder, builder.load(total), acc_data, at)
        return context.get_dummy_value()

    return sig, generate


@intrinsic
def row_max(ctx, s, s_at):  # type: ignore[no-untyped-def]
    """The largest of the TILE scores from `s_at`; NaN is passed over (its weight stays NaN)."""
    sig = types.float32(s, types.intp)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data = emit.array_data(context, builder, sig, args, 0)
        parts = [
            emit.load_f32(builder, data, builder.add(args[1], emit.index(v)))
            for v in range(0, TILE, LANES)
        ]
        largest = parts[0]
        for part in parts[1:]:
            largest = emit.call(builder, "llvm.maxnum", [largest, part])
        return emit.reduce_lanes(builder, "llvm.vector.reduce.fmax", [largest])

    return sig, generate


@intrinsic
def row_exp(ctx, s, s_at, peak):  # type: ignore[no-untyped-def]
    """s <- exp(s - peak) for TILE scores; returns their sum. Range-reduced polynomial, 2e-7 relative."""
    sig = types.float32(s, types.intp, types.float32)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data, peak = emit.array_data(context, builder, sig, args, 0), emit.splat(builder, args[2])
        total = emit.constant(0.0)
        for v in range(0, TILE, LANES):
            at = builder.add(args[1], emit.index(v))
            weight = emit.exp(builder, builder.fsub(emit.load_f32(builder, data, at), peak))
            emit.store(builder, weight, data, at)
            total = builder.fadd(total, weight)
        return emit.reduce_lanes(
            builder, "llvm.vector.reduce.fadd", [ir.Constant(emit.F32, 0.0), total], fast=True
        )

    return sig, generate


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
    """One stored number (float32, float16, or bfloat16 as uint16) as float32."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        if sig.args[0] == types.float32:
            return args[0]
        if sig.args[0] == types.float16:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), emit.F32)
        high = builder.shl(builder.zext(args[0], emit.I32), ir.Constant(emit.I32, 16))
        return builder.bitcast(high, emit.F32)

    return types.float32(bits), generate


@intrinsic
def narrow(ctx, like, number):  # type: ignore[no-untyped-def]
    """A float32 in the storage type of `like`; to bfloat16 it rounds to nearest, ties to even."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        number = args[1]
        if sig.args[0] == types.float32:
            return number
        if sig.args[0] == types.float16:
            return builder.bitcast(builder.fptrunc(number, ir.HalfType()), ir.IntType(16))
        bits = builder.bitcast(number, emit.I32)
        is_odd = builder.and_(
            builder.lshr(bits, ir.Constant(emit.I32, 16)), ir.Constant(emit.I32, 1)
        )
        rounded = builder.add(builder.add(bits, ir.Constant(emit.I32, 0x7FFF)), is_odd)
        is_nan = builder.fcmp_unordered("uno", number, number)
        bits = builder.select(is_nan, ir.Constant(emit.I32, 0x7FC00000), rounded)
        return builder.trunc(builder.lshr(bits, ir.Constant(emit.I32, 16)), ir.IntType(16))

    return like(like, types.float32), generate
