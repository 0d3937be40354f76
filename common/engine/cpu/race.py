"""Draws by Gumbel's noise (sampling/noise.py) on the CPU, one pass over a row.

The noise of a token is -log(-log(1 - u)), with a uniform u of its own, and never above -log(u). The bits of a
float32 u, read as an integer, give a number just below log2(u). So one comparison of integers turned floats
passes over a vector of tokens that cannot win. Logarithms are taken of the few others, in float64.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu import vector as vec
from common.engine.cpu.emit import INTS, LANES, Builder, Context, Values
from common.engine.cpu.jit import part

# as in sampling/noise.py: constants from outside this folder are no part of a kernel's key
_FIRST, _SECOND, _BITS = 0x7FEB352D, 0x846CA68B, 52
_WORD = (1 << 32) - 1
_SIGNED = 24  # bits of u that fit into float32, and into a signed integer
_LOG2_STEPS = 2.0**23 / np.log(2.0)  # of a float32's bits, in each factor e
_ZERO_BITS = (127.0 + _SIGNED) * 2.0**23  # of u = 1, where u counts steps of 2**-_SIGNED
_LEAST_NOISE = -4.0  # of any token
_SLACK = 0.001  # covers what float32 rounds


@intrinsic
def contenders(ctx, row, at, peak, slope, low, high, best):  # type: ignore[no-untyped-def]
    """Return bits of the lanes of row[at : at + LANES] that may score more than `best`.

    A score is (row - peak) * slope + noise; `low` and `high` are the halves of the noise's key.
    """
    f32, i64 = types.float32, types.int64
    sig = types.int64(row, types.intp, f32, f32, i64, i64, f32)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data = emit.array_data(context, builder, sig, args, 0)
        numbers = emit.load(builder, data, args[1], sig.args[0])
        steps = ir.Constant(emit.F32, float(np.float32(_LOG2_STEPS)))
        zero = ir.Constant(emit.F32, float(np.float32(_ZERO_BITS)))
        slope = emit.splat(builder, builder.fmul(args[3], steps))
        reach = emit.splat(builder, builder.fsub(zero, builder.fmul(args[6], steps)))
        below = builder.fsub(numbers, emit.splat(builder, args[2]))
        limit = emit.call(builder, "llvm.fma", [below, slope, reach])
        word = builder.lshr(_mixed(builder, args[1], args[4], args[5]), _alike(32 - _SIGNED))
        bits = builder.bitcast(builder.sitofp(word, emit.VECTOR), INTS)
        is_early = builder.fcmp_ordered("<", builder.sitofp(bits, emit.VECTOR), limit)
        return builder.zext(builder.bitcast(is_early, ir.IntType(LANES)), ir.IntType(64))

    return sig, generate


def _mixed(builder: Builder, at: Any, low: Any, high: Any) -> Any:
    """Mix as sampling/noise.py does, LANES token ids from `at` on."""
    first, low, high = (
        emit.splat_as(builder, builder.trunc(number, emit.I32), INTS) for number in (at, low, high)
    )
    lanes = ir.Constant(INTS, list(range(LANES)))
    word = builder.xor(builder.add(first, lanes), low)
    word = builder.xor(word, builder.lshr(word, _alike(16)))
    word = builder.mul(word, _alike(_FIRST))
    word = builder.xor(builder.xor(word, builder.lshr(word, _alike(15))), high)
    word = builder.mul(word, _alike(_SECOND))
    return builder.xor(word, builder.lshr(word, _alike(16)))


def _alike(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)


@part()
def race(row, peak, temperature, key):  # type: ignore[no-untyped-def]
    """Return the token of `row` [vocab] that is drawn under a key (uint64); never a -inf.

    `peak` is the row's largest logit.
    """
    low, high = np.int64(key & np.uint64(_WORD)), np.int64(key >> np.uint64(32))
    slope, bound = np.float32(1 / temperature), np.float32(_LEAST_NOISE)
    whole = row.shape[0] // LANES * LANES
    best, winner = -np.inf, 0
    for start in range(0, row.shape[0], LANES):
        lanes = np.int64((1 << LANES) - 1)
        if start < whole:
            lanes = contenders(row, start, peak, slope, low, high, bound)
        if not lanes:
            continue
        for i in range(start, min(start + LANES, row.shape[0])):
            if lanes >> (i - start) & 1:
                below = np.float64(vec.widen(row[i])) - np.float64(peak)
                score = below / temperature + _gumbel(i, low, high)
                if score > best:
                    best, winner = score, i
                    bound = np.float32(max(best, _LEAST_NOISE) - _SLACK)
    return winner


@part()
def _gumbel(token_id, low, high):  # type: ignore[no-untyped-def]
    bits = (_mix(token_id, low, high) << (_BITS - 32)) | (_mix(token_id, high, low) >> (64 - _BITS))
    uniform = (np.float64(bits) + 0.5) * 2.0**-_BITS
    return -np.log(-np.log(1 - uniform))


@part()
def _mix(token_id, low, high):  # type: ignore[no-untyped-def]
    word = token_id ^ low
    word = ((word ^ (word >> 16)) * _FIRST) & _WORD
    word = ((word ^ (word >> 15) ^ high) * _SECOND) & _WORD
    return word ^ (word >> 16)
