"""Emitters of LLVM vector IR, from which the intrinsics of vector.py are made.

Every emitter takes the IR builder first. Offsets count elements from an array's first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature

from common.engine.cpu.target import host_target

LANES = host_target().lanes

# numba's codegen objects have no usable types
Builder = Any
Context = Any
Values = Sequence[Any]


class BFloat(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's bfloat, which llvmlite has no class for."""

    def _to_string(self) -> str:
        return "bfloat"


F32 = ir.FloatType()
I32 = ir.IntType(32)
VECTOR = ir.VectorType(F32, LANES)
INTS = ir.VectorType(I32, LANES)
SHORTS = ir.VectorType(ir.IntType(16), LANES)
# 2**f on [-1/2, 1/2]: Taylor in f*ln2, relative error below 2e-7
_POWERS = (1.0, 0.6931472, 0.24022651, 0.05550411, 0.009618129, 0.0013333558, 0.00015403530)
_LOG2E = 1.4426950408889634
_SHIFTER = 1.5 * 2**23 + 127
_LOWEST = -87.0  # below it e**x is taken as zero


def literal(value: types.Type) -> int:
    """Read a size that is known when the kernel is compiled. Raises TypeError, which numba reports."""
    if not isinstance(value, types.IntegerLiteral):
        raise TypeError("sizes must be compile-time constants")
    number: int = value.literal_value
    return number


def exp(builder: Builder, x: Any) -> Any:
    """Compute e**x by a range-reduced polynomial; 0 far below zero, undefined above 88, NaN stays NaN."""
    # adding _SHIFTER leaves round(x / ln 2) + 127, the biased exponent, in the last bits of the sum
    shifted = call(builder, "llvm.fma", [x, constant(_LOG2E), constant(_SHIFTER)])
    minus_whole = builder.fsub(constant(_SHIFTER), shifted)
    # fused, or the rounding of a large product would be all that is left of the fraction
    fraction = call(builder, "llvm.fma", [x, constant(_LOG2E), minus_whole])
    result = constant(_POWERS[-1])
    for power in reversed(_POWERS[:-1]):
        result = call(builder, "llvm.fma", [result, fraction, constant(power)])
    scale = builder.bitcast(builder.shl(builder.bitcast(shifted, INTS), _ints(23)), VECTOR)
    # an ordered comparison: NaN is not "below" and goes through
    is_tiny = builder.fcmp_ordered("<", x, constant(_LOWEST))
    return builder.select(is_tiny, constant(0.0), builder.fmul(result, scale))


def load(builder: Builder, data: Any, at: Any, array: types.Array) -> Any:
    """Load LANES stored numbers as a float32 vector. Raises TypeError for a dtype it does not know."""
    if array.dtype == types.float32:
        return load_f32(builder, data, at)
    pointer = builder.gep(data, [at])
    if array.dtype == types.int16:
        half = ir.VectorType(ir.HalfType(), LANES)
        return builder.fpext(aligned_load(builder, pointer, half, 2), VECTOR)
    if array.dtype != types.uint16:
        raise TypeError(f"no vector load for {array.dtype}")
    return widened_bfloat(builder, aligned_load(builder, pointer, SHORTS, 2))


def load_f32(builder: Builder, data: Any, at: Any) -> Any:
    """Load LANES float32 numbers."""
    return aligned_load(builder, builder.gep(data, [at]), VECTOR, 4)


def aligned_load(builder: Builder, pointer: Any, kind: ir.Type, align: int) -> Any:
    """Load a vector of any kind."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


def store(builder: Builder, vector: Any, data: Any, at: Any) -> None:
    """Store LANES float32 numbers into a float32 array."""
    pointer = builder.bitcast(builder.gep(data, [at]), VECTOR.as_pointer())
    builder.store(vector, pointer, align=4)


def store_as(
    builder: Builder,
    vector: Any,
    data: Any,
    at: Any,
    array: types.Array,
    *,
    is_normal: bool = False,
) -> None:
    """Store LANES float32 numbers in the array's dtype, rounded to nearest, ties to even.

    `is_normal` promises that none is denormal: the CPU's own rounding to bfloat16 makes those zero.
    """
    if array.dtype == types.float32:
        return store(builder, vector, data, at)
    if array.dtype == types.int16:
        stored = builder.fptrunc(vector, ir.VectorType(ir.HalfType(), LANES))
    elif is_normal and host_target().level == "avx512-bf16":
        stored = builder.fptrunc(vector, ir.VectorType(BFloat(), LANES))
    else:
        stored = rounded_bfloat(builder, vector)
    pointer = builder.bitcast(builder.gep(data, [at]), stored.type.as_pointer())
    builder.store(stored, pointer, align=2)
    return None


def widened_bfloat(builder: Builder, bits: Any) -> Any:
    """Widen bfloat16 to float32, exactly: a vector of 16-bit integers, or one."""
    is_vector = isinstance(bits.type, ir.VectorType)
    words, numbers = (INTS, VECTOR) if is_vector else (I32, F32)
    return builder.bitcast(builder.shl(builder.zext(bits, words), _alike(words, 16)), numbers)


def rounded_bfloat(builder: Builder, number: Any) -> Any:
    """Round float32, a vector or one, to the bits of the nearest bfloat16, ties to even; NaN stays NaN.

    Integers do it: LLVM turns its own conversion into a call of a function that need not exist.
    """
    is_vector = isinstance(number.type, ir.VectorType)
    words, shorts = (INTS, SHORTS) if is_vector else (I32, ir.IntType(16))
    bits = builder.bitcast(number, words)
    is_odd = builder.and_(builder.lshr(bits, _alike(words, 16)), _alike(words, 1))
    rounded = builder.add(builder.add(bits, _alike(words, 0x7FFF)), is_odd)
    is_nan = builder.fcmp_unordered("uno", number, number)
    bits = builder.select(is_nan, _alike(words, 0x7FC00000), rounded)
    return builder.trunc(builder.lshr(bits, _alike(words, 16)), shorts)


def _ints(value: int) -> Any:
    return _alike(INTS, value)


def _alike(kind: ir.Type, value: int) -> Any:
    return ir.Constant(kind, [value] * LANES if isinstance(kind, ir.VectorType) else value)


def variable(builder: Builder, value: Any) -> Any:
    """Make a variable: a stack slot, which LLVM turns into a register."""
    slot = cgutils.alloca_once(builder, value.type)
    builder.store(value, slot)
    return slot


def add_product(builder: Builder, total: Any, left: Any, right: Any) -> None:
    """Add left * right to a variable, fused."""
    builder.store(call(builder, "llvm.fma", [left, right, builder.load(total)]), total)


def splat(builder: Builder, scalar: Any) -> Any:
    """Put one float32 into every lane."""
    return splat_as(builder, scalar, VECTOR)


def splat_as(builder: Builder, scalar: Any, kind: ir.Type) -> Any:
    """Put one number into every lane of a vector kind of LANES lanes."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, nothing, _ints(0))


def call(builder: Builder, name: str, args: list[Any]) -> Any:
    """Call an LLVM intrinsic on vectors."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(args))
    function = cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32")
    return builder.call(function, args)


def prefetch(builder: Builder, data: Any, at: Any) -> None:
    """Ask for the cache line of a number that will be read soon; harmless beyond the array's end."""
    pointer = builder.bitcast(builder.gep(data, [at]), ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])


def keep_order(builder: Builder) -> None:
    """Keep later loads behind this point. LLVM would do all loads first, and push sums out of registers."""
    kind = ir.FunctionType(ir.VoidType(), [])
    builder.call(ir.InlineAsm(kind, "", "~{memory}", side_effect=True), [])


def across(builder: Builder, vector: Any, combine: Callable[[Builder, Any, Any], Any]) -> Any:
    """Combine a vector's lanes two by two until one is left; return it as a scalar."""
    span = LANES // 2
    while span:
        turned = [(i + span) % LANES for i in range(LANES)]
        vector = combine(builder, vector, shuffle(builder, vector, vector, turned))
        span //= 2
    return builder.extract_element(vector, ir.Constant(I32, 0))


def add(builder: Builder, a: Any, b: Any) -> Any:
    """Add, lane by lane."""
    return builder.fadd(a, b)


def larger(builder: Builder, a: Any, b: Any) -> Any:
    """Pick the larger number, lane by lane; a NaN in `a` is passed over (a comparison with it is false)."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def shuffle(builder: Builder, a: Any, b: Any, lanes: list[int]) -> Any:
    """Pick lanes from two vectors by number, b's from LANES on."""
    return builder.shuffle_vector(a, b, ir.Constant(INTS, lanes))


def constant(value: float) -> Any:
    """Make a vector of one float32 constant in every lane."""
    return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)


def index(value: int) -> Any:
    """Make a constant offset."""
    return ir.Constant(ir.IntType(64), value)


def multiply_add(builder: Builder, number: Any, factor: int, base: Any) -> Any:
    """Compute an offset: number * factor + base."""
    return builder.add(builder.mul(number, index(factor)), base)


def array_data(context: Context, builder: Builder, sig: Signature, args: Values, i: int) -> Any:
    """Return the address at which the i-th argument, an array, begins."""
    return context.make_array(sig.args[i])(context, builder, args[i]).data
