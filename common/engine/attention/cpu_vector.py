"""Vector instructions for the CPU attention kernel, as numba intrinsics that emit LLVM IR.

Auto-vectorised loops reload their accumulators from memory on every step; here they stay in registers,
which is what makes a matrix product fast. The IR is plain vector code, so LLVM maps it to whatever the
machine has. KV may be stored as float32, float16 or bfloat16 (seen as uint16); arithmetic is float32.

All offsets count elements from an array's first. Sizes must be compile-time constants.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

LANES = 16
TILE = (
    64  # key positions between two updates of the running softmax; a row of scores has this stride
)

# numba's codegen objects have no usable types
Builder = Any
Context = Any
Values = Sequence[Any]

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_INTS = ir.VectorType(_I32, LANES)
# 2**f on [0, 1): Taylor in f*ln2, relative error below 2e-7
_POWERS = (1.0, 0.6931472, 0.24022651, 0.05550411, 0.009618129, 0.0013333558, 0.00015403530)
_LOG2E = 1.4426950408889634
_LOWEST = -126.0  # below it 2**x is taken as zero


def _literal(value: types.Type) -> int:
    if not isinstance(value, types.IntegerLiteral):
        raise TypeError("sizes must be compile-time constants")
    number: int = value.literal_value
    return number


@intrinsic(prefer_literal=True)
def score_block(ctx, q, q_at, keys, k_at, s, s_at, rows, dim, size):  # type: ignore[no-untyped-def]
    """s[r, 0:size] = q[r, 0:dim] . keys[0:dim, 0:size] for `rows` rows of one block (keys transposed)."""
    n, d, width = _literal(rows), _literal(dim), _literal(size)
    # few rows make few independent sums: split each, or the adder's latency is what one waits for
    splits = next(k for k in (8, 4, 2, 1) if k * n <= 12 and d % k == 0)
    sig = types.void(q, types.intp, keys, types.intp, s, types.intp, rows, dim, size)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        q_data, k_data, s_data = (_data(context, builder, sig, args, i) for i in (0, 2, 4))
        q_base, k_base, s_base = args[1], args[3], args[5]
        for v in range(0, width, LANES):
            sums = [_variable(builder, _constant(0.0)) for _ in range(n * splits)]
            with cgutils.for_range(builder, _index(d // splits)) as loop:
                for k in range(splits):
                    channel = builder.add(builder.mul(loop.index, _index(splits)), _index(k))
                    k_row = builder.add(k_base, builder.mul(channel, _index(width)))
                    key = _load(builder, k_data, builder.add(k_row, _index(v)), sig.args[2])
                    for r in range(n):
                        at = builder.add(builder.add(q_base, _index(r * d)), channel)
                        scalar = builder.load(builder.gep(q_data, [at]))
                        _add_product(builder, sums[r * splits + k], _splat(builder, scalar), key)
            for r in range(n):
                parts = [builder.load(part) for part in sums[r * splits : (r + 1) * splits]]
                total = reduce(builder.fadd, parts)
                _store(builder, total, s_data, builder.add(s_base, _index(r * TILE + v)))
        return context.get_dummy_value()

    return sig, generate


@intrinsic(prefer_literal=True)
def accumulate_block(ctx, p, p_at, values, v_at, count, acc, acc_at, rows, dim):  # type: ignore[no-untyped-def]
    """acc[r, 0:dim] += p[r, 0:count] . values[0:count, 0:dim] for `rows` rows of one block."""
    n, d = _literal(rows), _literal(dim)
    sig = types.void(p, types.intp, values, types.intp, types.intp, acc, types.intp, rows, dim)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        p_data, v_data, acc_data = (_data(context, builder, sig, args, i) for i in (0, 2, 5))
        p_base, v_base, count, acc_base = args[1], args[3], args[4], args[6]
        panel = min(d, 4 * LANES)  # columns whose sums fit in registers beside their inputs
        for start in range(0, d, panel):
            columns = range(start, min(start + panel, d), LANES)
            spots = [
                (r, builder.add(acc_base, _index(r * d + c))) for r in range(n) for c in columns
            ]
            sums = [_variable(builder, _load_f32(builder, acc_data, at)) for _, at in spots]
            with cgutils.for_range(builder, count) as loop:
                v_row = builder.add(v_base, builder.mul(loop.index, _index(d)))
                row_values = [
                    _load(builder, v_data, builder.add(v_row, _index(c)), sig.args[2])
                    for c in columns
                ]
                for r in range(n):
                    at = builder.add(builder.add(p_base, _index(r * TILE)), loop.index)
                    weight = _splat(builder, builder.load(builder.gep(p_data, [at])))
                    for c, value in enumerate(row_values):
                        _add_product(builder, sums[r * len(row_values) + c], weight, value)
            for (_, at), total in zip(spots, sums, strict=True):
                _store(builder, builder.load(total), acc_data, at)
        return context.get_dummy_value()

    return sig, generate


@intrinsic
def row_max(ctx, s, s_at):  # type: ignore[no-untyped-def]
    """The largest of the TILE scores from `s_at`; NaN is passed over (its weight stays NaN)."""
    sig = types.float32(s, types.intp)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data = _data(context, builder, sig, args, 0)
        parts = [
            _load_f32(builder, data, builder.add(args[1], _index(v))) for v in range(0, TILE, LANES)
        ]
        largest = parts[0]
        for part in parts[1:]:
            largest = _call(builder, "llvm.maxnum", [largest, part])
        return _reduce(builder, "llvm.vector.reduce.fmax", [largest])

    return sig, generate


@intrinsic
def row_exp(ctx, s, s_at, peak):  # type: ignore[no-untyped-def]
    """s <- exp(s - peak) for TILE scores; returns their sum. Range-reduced polynomial, 2e-7 relative."""
    sig = types.float32(s, types.intp, types.float32)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data, peak = _data(context, builder, sig, args, 0), _splat(builder, args[2])
        total = _constant(0.0)
        for v in range(0, TILE, LANES):
            at = builder.add(args[1], _index(v))
            weight = _exp(builder, builder.fsub(_load_f32(builder, data, at), peak))
            _store(builder, weight, data, at)
            total = builder.fadd(total, weight)
        return _reduce(
            builder, "llvm.vector.reduce.fadd", [ir.Constant(_F32, 0.0), total], fast=True
        )

    return sig, generate


@intrinsic
def widen(ctx, bits):  # type: ignore[no-untyped-def]
    """One stored number (float32, float16, or bfloat16 as uint16) as float32."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        if sig.args[0] == types.float32:
            return args[0]
        if sig.args[0] == types.float16:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), _F32)
        high = builder.shl(builder.zext(args[0], _I32), ir.Constant(_I32, 16))
        return builder.bitcast(high, _F32)

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
        bits = builder.bitcast(number, _I32)
        is_odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(_I32, 0x7FFF)), is_odd)
        is_nan = builder.fcmp_unordered("uno", number, number)
        bits = builder.select(is_nan, ir.Constant(_I32, 0x7FC00000), rounded)
        return builder.trunc(builder.lshr(bits, ir.Constant(_I32, 16)), ir.IntType(16))

    return like(like, types.float32), generate


def _exp(builder: Builder, x: Any) -> Any:
    x = builder.fmul(x, _constant(_LOG2E))
    # an ordered comparison: NaN is not "below" and goes through
    is_tiny = builder.fcmp_ordered("<", x, _constant(_LOWEST))
    x = builder.select(is_tiny, _constant(_LOWEST), x)
    whole = _call(builder, "llvm.floor", [x])
    fraction = builder.fsub(x, whole)
    result = _constant(_POWERS[-1])
    for power in reversed(_POWERS[:-1]):
        result = _call(builder, "llvm.fma", [result, fraction, _constant(power)])
    exponent = builder.add(builder.fptosi(whole, _INTS), ir.Constant(_INTS, [127] * LANES))
    scale = builder.bitcast(builder.shl(exponent, ir.Constant(_INTS, [23] * LANES)), _VECTOR)
    return builder.select(is_tiny, _constant(0.0), builder.fmul(result, scale))


def _load(builder: Builder, data: Any, at: Any, array: types.Array) -> Any:
    """LANES stored numbers as a float32 vector."""
    if array.dtype == types.float32:
        return _load_f32(builder, data, at)
    pointer = builder.gep(data, [at])
    if array.dtype == types.float16:
        half = ir.VectorType(ir.HalfType(), LANES)
        return builder.fpext(_aligned_load(builder, pointer, half, 2), _VECTOR)
    if array.dtype != types.uint16:
        raise TypeError(f"no vector load for {array.dtype}")
    bits = _aligned_load(builder, pointer, ir.VectorType(ir.IntType(16), LANES), 2)
    high = builder.shl(builder.zext(bits, _INTS), ir.Constant(_INTS, [16] * LANES))
    return builder.bitcast(high, _VECTOR)


def _load_f32(builder: Builder, data: Any, at: Any) -> Any:
    return _aligned_load(builder, builder.gep(data, [at]), _VECTOR, 4)


def _aligned_load(builder: Builder, pointer: Any, kind: ir.Type, align: int) -> Any:
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


def _store(builder: Builder, vector: Any, data: Any, at: Any) -> None:
    pointer = builder.bitcast(builder.gep(data, [at]), _VECTOR.as_pointer())
    builder.store(vector, pointer, align=4)


def _variable(builder: Builder, value: Any) -> Any:
    """A stack slot, which LLVM turns into a register."""
    slot = cgutils.alloca_once(builder, _VECTOR)
    builder.store(value, slot)
    return slot


def _add_product(builder: Builder, total: Any, left: Any, right: Any) -> None:
    builder.store(_call(builder, "llvm.fma", [left, right, builder.load(total)]), total)


def _splat(builder: Builder, scalar: Any) -> Any:
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(_INTS, [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _call(builder: Builder, name: str, args: list[Any]) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    function = cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32")
    return builder.call(function, args)


def _reduce(builder: Builder, name: str, args: list[Any], *, fast: bool = False) -> Any:
    kind = ir.FunctionType(_F32, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32")
    return builder.call(function, args, fastmath=("reassoc",) if fast else ())


def _constant(value: float) -> Any:
    return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)


def _index(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _data(context: Context, builder: Builder, sig: Signature, args: Values, i: int) -> Any:
    return context.make_array(sig.args[i])(context, builder, args[i]).data
