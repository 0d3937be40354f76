"""Rows of x as 16-bit integers, for products with panels of small integers (integer_panel.py).

Each group of GROUP numbers has a float32 scale, its largest absolute value / LIMIT. A number is
scale * (256 * high + low), both digits signed bytes; its error is below 2^-15 of the group's largest, of
which bfloat16 loses a hundred times as much. So weights alone decide how exact a product is.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import INTS, LANES, Builder, Context, Values
from common.engine.cpu.quantized_levels import GROUP, STEP

LIMIT = 127 * 256 + 127  # the largest number of two signed digits
_DIGIT_BITS = 8
_HALF_DIGIT = 1 << (_DIGIT_BITS - 1)
_MAGIC = 1.5 * 2**23  # added to a small float, leaves its nearest integer in the last bits
_MAGIC_BITS = 0x4B400000
_WITHOUT_SIGN = 0x7FFFFFFF
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_NATURAL = list(range(LANES))
# the even numbers of eight, then the odd ones: as the nibbles of a word of 4-bit levels come apart
_SPLIT = [
    first + 2 * i + odd for first in range(0, LANES, STEP) for odd in (0, 1) for i in range(4)
]


@intrinsic(prefer_literal=True)
def split_group(ctx, x, at, high, low, scales, sums, offsets, group, is_split):  # type: ignore[no-untyped-def]
    """Write the digits of GROUP numbers of x from `at` on to the same places of `high` and `low`.

    scales[group] = the scale; sums[group] = the sum of the integers; offsets[group] = scale * sum. With
    `is_split` 1 the numbers of each eight are in _SPLIT's order. A number that is not finite makes the scale
    such.
    """
    is_dealt = bool(emit.literal(is_split))
    sig = types.void(x, types.intp, high, low, scales, sums, offsets, types.intp, is_split)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data, highs, lows, all_scales, all_sums, all_offsets = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 2, 3, 4, 5, 6)
        )
        spots = [builder.add(args[1], emit.index(i)) for i in range(0, GROUP, LANES)]
        numbers = [emit.load_f32(builder, data, spot) for spot in spots]
        largest = _largest(builder, numbers)
        inverse = builder.fdiv(ir.Constant(emit.F32, float(LIMIT)), largest)
        is_zero = builder.fcmp_ordered("==", largest, ir.Constant(emit.F32, 0.0))
        factor = emit.splat(builder, builder.select(is_zero, ir.Constant(emit.F32, 0.0), inverse))
        total = ir.Constant(INTS, [0] * LANES)
        for spot, vector in zip(spots, numbers, strict=True):
            whole = _rounded(builder, builder.fmul(vector, factor))
            total = builder.add(total, whole)
            upper, lower = _digits(builder, whole)
            for digits, target in ((upper, highs), (lower, lows)):
                _store_bytes(builder, digits, target, spot, _SPLIT if is_dealt else _NATURAL)
        scale = builder.fmul(largest, ir.Constant(emit.F32, 1 / LIMIT))
        sum_ = emit.across(builder, total, lambda b, x, y: b.add(x, y))
        builder.store(scale, builder.gep(all_scales, [args[7]]))
        builder.store(sum_, builder.gep(all_sums, [args[7]]))
        as_float = builder.sitofp(sum_, emit.F32)
        builder.store(builder.fmul(as_float, scale), builder.gep(all_offsets, [args[7]]))
        return context.get_dummy_value()

    return sig, generate


def _largest(builder: Builder, vectors: list[Any]) -> Any:
    """Return the largest absolute value: by bits, so that NaN is larger than all."""
    found = ir.Constant(INTS, [0] * LANES)
    for vector in vectors:
        bits = builder.and_(builder.bitcast(vector, INTS), _alike(_WITHOUT_SIGN))
        found = _larger(builder, bits, found)
    return builder.bitcast(emit.across(builder, found, _larger), emit.F32)


def _larger(builder: Builder, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _rounded(builder: Builder, vector: Any) -> Any:
    """Return the nearest integers, ties to even, of numbers up to LIMIT; garbage for NaN."""
    shifted = builder.fadd(vector, emit.constant(_MAGIC))
    return builder.sub(builder.bitcast(shifted, INTS), _alike(_MAGIC_BITS))


def _digits(builder: Builder, whole: Any) -> tuple[Any, Any]:
    """Return the higher and the lower digit."""
    upper = builder.ashr(builder.add(whole, _alike(_HALF_DIGIT)), _alike(_DIGIT_BITS))
    return upper, builder.sub(whole, builder.shl(upper, _alike(_DIGIT_BITS)))


def _store_bytes(builder: Builder, words: Any, data: Any, at: Any, order: list[int]) -> None:
    shuffled = emit.shuffle(builder, words, words, order)
    pointer = builder.bitcast(builder.gep(data, [at]), _BYTES.as_pointer())
    builder.store(builder.trunc(shuffled, _BYTES), pointer, align=1)


def _alike(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)
