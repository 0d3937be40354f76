"""Emitters of dot products of small integers: levels of a panel with the digits of a row's numbers.

The dtype of the digits says which one it is:

- int16, pairs: one digit; an instruction multiplies two numbers a lane and sums them (AVX2, AVX-512BW).
- int8, bytes: two digits. AVX512-VNNI multiplies four a lane and adds them to 32 bits. Elsewhere two
  instructions do, in sums of 16 bits: 15 * 128 * 16 numbers of a group fit, so levels have 4 bits.

All give the same whole numbers, so a row may be multiplied by any of them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types

from common.engine.cpu import emit
from common.engine.cpu.emit import INTS, LANES, Builder
from common.engine.cpu.target import host_target

_PAIRS = ir.VectorType(ir.IntType(16), 2 * LANES)
_BYTES = ir.VectorType(ir.IntType(8), 4 * LANES)
_IS_WIDE = LANES == 16
_ADD_FOUR = "llvm.x86.avx512.vpdpbusd.512"
_BYTES_DOT = "llvm.x86.avx512.pmaddubs.w.512" if _IS_WIDE else "llvm.x86.avx2.pmadd.ub.sw"
_PAIRS_DOT = "llvm.x86.avx512.pmaddw.d.512" if _IS_WIDE else "llvm.x86.avx2.pmadd.wd"
_DIGIT_BITS = 8


class IntegerDot(NamedTuple):
    """Way to multiply levels and digits."""

    digits: int  # of a number
    in_lane: int  # numbers that 32 bits of digits hold
    adds_four: bool

    @property
    def is_by_bytes(self) -> bool:
        """True where digits are bytes."""
        return self.digits > 1

    @property
    def has_small_sums(self) -> bool:
        """True where a group's sums have 16 bits."""
        return self.is_by_bytes and not self.adds_four

    def begin(self, builder: Builder, start: Any) -> list[Any]:
        """Return a sum over a group that begins at `start` [LANES]: variables, and perhaps `start` itself."""
        if self.has_small_sums:
            zero = ir.Constant(_PAIRS, [0] * 2 * LANES)
            return [*(emit.variable(builder, zero) for _ in range(self.digits)), start]
        zeros = [alike(0)] * (self.digits - 1)
        return [emit.variable(builder, value) for value in (*zeros, start)]

    def add(self, builder: Builder, total: Any, levels: Any, digits: Any) -> None:
        """Add the products of levels and digits of one place, INTS, to a variable."""
        so_far = builder.load(total)
        if self.adds_four:
            builder.store(_call(builder, _ADD_FOUR, INTS, [so_far, levels, digits]), total)
            return
        name, kind, sums = (
            (_BYTES_DOT, _BYTES, _PAIRS) if self.is_by_bytes else (_PAIRS_DOT, _PAIRS, INTS)
        )
        pair = [builder.bitcast(words, kind) for words in (levels, digits)]
        builder.store(builder.add(so_far, _call(builder, name, sums, pair)), total)

    def whole(self, builder: Builder, sums: Sequence[Any]) -> Any:
        """Return a group's sum [LANES] of what `begin` gave."""
        if not self.has_small_sums:
            found = [builder.load(total) for total in sums]
            return found[0] if len(found) == 1 else _joined(builder, *found)
        ones = ir.Constant(_PAIRS, [1] * 2 * LANES)
        loaded = (builder.load(total) for total in sums[:-1])
        wide = (_call(builder, _PAIRS_DOT, INTS, [x, ones]) for x in loaded)
        return builder.add(_joined(builder, *wide), sums[-1])


def dot_of(digits: types.Array) -> IntegerDot:
    """Return the way to multiply digits of an array's dtype on this CPU."""
    if digits.dtype == types.int16:
        return IntegerDot(1, 2, False)
    return IntegerDot(2, 4, host_target().integer_dot == "bytes")


def alike(value: int) -> Any:
    """Make a vector of one constant in every lane."""
    return ir.Constant(INTS, [value] * LANES)


def _joined(builder: Builder, upper: Any, lower: Any) -> Any:
    return builder.add(builder.shl(upper, alike(_DIGIT_BITS)), lower)


def _call(builder: Builder, name: str, result: ir.Type, args: list[Any]) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, args)
