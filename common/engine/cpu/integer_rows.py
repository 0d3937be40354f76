"""Rows of x as 16-bit integers, for products with panels of small integers (integer_panel.py).

Each group of GROUP numbers has a float32 scale, its largest absolute value / LIMIT. A number is scale * an
integer; its error is below 2^-15 of the group's largest, of which bfloat16 loses a hundred times as much. So
weights alone decide how exact a product is.

The array of digits has their dtype (integer_dots.py). In int8 the integer is 256 * high + low: two digits,
each a signed byte, all high ones of a row before its low ones. In int16 it is one digit.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import INTS, LANES, Builder, Context, Values
from common.engine.cpu.integer_dots import alike, dot_of
from common.engine.cpu.quantized_levels import BYTES_IN_WORD, GROUP, NIBBLES_IN_WORD, STEP

LIMIT = 127 * 256 + 127  # the largest number of two signed bytes
_DIGIT_BITS = 8
_HALF_DIGIT = 1 << (_DIGIT_BITS - 1)
_MAGIC = 1.5 * 2**23  # added to a small float, leaves its nearest integer in the last bits
_MAGIC_BITS = 0x4B400000
_WITHOUT_SIGN = 0x7FFFFFFF
_BYTES, _SHORTS = (ir.VectorType(ir.IntType(bits), LANES) for bits in (8, 16))
# stored order of each STEP numbers, bytes and pairs, as levels of a word come apart (integer_levels.py)
_BYTE_ORDERS = {
    BYTES_IN_WORD: [0, 1, 2, 3, 4, 5, 6, 7],
    NIBBLES_IN_WORD: [0, 2, 4, 6, 1, 3, 5, 7],
}
_PAIR_ORDERS = {
    BYTES_IN_WORD: [0, 2, 1, 3, 4, 6, 5, 7],
    NIBBLES_IN_WORD: [0, 4, 1, 5, 2, 6, 3, 7],
}


@intrinsic(prefer_literal=True)
def split_group(ctx, x, at, digits, to, depth, scales, sums, offsets, group, in_word):  # type: ignore[no-untyped-def]
    """Write the digits of GROUP numbers of x from `at` on to `digits` from `to` on; two lie `depth` apart.

    scales[group] = the scale; sums[group] = the sum of the integers; offsets[group] = scale * sum. The order
    of each STEP numbers is that of a panel with `in_word` levels in a word. A number that is not finite makes
    the scale such.
    """
    is_by_bytes = dot_of(digits).is_by_bytes
    order = (_BYTE_ORDERS if is_by_bytes else _PAIR_ORDERS)[emit.literal(in_word)]
    i64 = types.intp
    sig = types.void(x, i64, digits, i64, i64, scales, sums, offsets, i64, in_word)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data, target, all_scales, all_sums, all_offsets = (
            emit.array_data(context, builder, sig, args, i) for i in (0, 2, 5, 6, 7)
        )
        starts = [emit.index(i) for i in range(0, GROUP, LANES)]
        numbers = [emit.load_f32(builder, data, builder.add(args[1], start)) for start in starts]
        largest = _largest(builder, numbers)
        inverse = builder.fdiv(ir.Constant(emit.F32, float(LIMIT)), largest)
        is_zero = builder.fcmp_ordered("==", largest, ir.Constant(emit.F32, 0.0))
        factor = emit.splat(builder, builder.select(is_zero, ir.Constant(emit.F32, 0.0), inverse))
        total = ir.Constant(INTS, [0] * LANES)
        for start, vector in zip(starts, numbers, strict=True):
            whole = _rounded(builder, builder.fmul(vector, factor))
            total = builder.add(total, whole)
            for number, digit in enumerate(_digits(builder, whole, is_by_bytes)):
                spot = emit.multiply_add(builder, args[4], number, builder.add(args[3], start))
                _store_digits(builder, digit, target, spot, order)
        scale = builder.fmul(largest, ir.Constant(emit.F32, 1 / LIMIT))
        sum_ = emit.across(builder, total, lambda b, x, y: b.add(x, y))
        builder.store(scale, builder.gep(all_scales, [args[8]]))
        builder.store(sum_, builder.gep(all_sums, [args[8]]))
        as_float = builder.sitofp(sum_, emit.F32)
        builder.store(builder.fmul(as_float, scale), builder.gep(all_offsets, [args[8]]))
        return context.get_dummy_value()

    return sig, generate


def _largest(builder: Builder, vectors: list[Any]) -> Any:
    """Return the largest absolute value: by bits, so that NaN is larger than all."""
    found = ir.Constant(INTS, [0] * LANES)
    for vector in vectors:
        bits = builder.and_(builder.bitcast(vector, INTS), alike(_WITHOUT_SIGN))
        found = _larger(builder, bits, found)
    return builder.bitcast(emit.across(builder, found, _larger), emit.F32)


def _larger(builder: Builder, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _rounded(builder: Builder, vector: Any) -> Any:
    """Return the nearest integers, ties to even, of numbers up to LIMIT; garbage for NaN."""
    shifted = builder.fadd(vector, emit.constant(_MAGIC))
    return builder.sub(builder.bitcast(shifted, INTS), alike(_MAGIC_BITS))


def _digits(builder: Builder, whole: Any, is_by_bytes: bool) -> list[Any]:
    """Return the digits as they are stored, the higher one first."""
    if not is_by_bytes:
        return [builder.trunc(whole, _SHORTS)]
    upper = builder.ashr(builder.add(whole, alike(_HALF_DIGIT)), alike(_DIGIT_BITS))
    lower = builder.sub(whole, builder.shl(upper, alike(_DIGIT_BITS)))
    return [builder.trunc(digit, _BYTES) for digit in (upper, lower)]


def _store_digits(builder: Builder, digits: Any, data: Any, at: Any, order: list[int]) -> None:
    lanes = [first + place for first in range(0, LANES, STEP) for place in order]
    pointer = builder.bitcast(builder.gep(data, [at]), digits.type.as_pointer())
    builder.store(emit.shuffle(builder, digits, digits, lanes), pointer, align=1)
