"""Kernels for the work of a fused decoder layer between its matrix products.

Arrays hold float32, bfloat16 as uint16, or float16 as int16; arithmetic is float32. Each row is computed
by one thread in a fixed order, so a row's result does not depend on its neighbours.
"""

import numpy as np

from common.engine.cpu import vector as vec
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.parallel import in_parallel

# reassociation alone lets the sums vectorise; NaN and infinity keep their meaning
_FAST = {"reassoc", "contract"}


@kernel()
def rms_norm(x, weight, eps, out):  # type: ignore[no-untyped-def]
    """out[t] = x[t] / rms(x[t]) * weight; x and out [T, n] may be one array."""
    in_parallel(x.shape[0], _norm_rows, (x, weight, eps, out))


@part(fastmath=_FAST, are_distinct=True)
def _norm_rows(first, end, x, weight, eps, out):  # type: ignore[no-untyped-def]
    for t in range(first, end):
        total = np.float32(0)
        for i in range(x.shape[1]):
            number = vec.widen(x[t, i])
            total += number * number
        scale = np.float32(1) / np.sqrt(total / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            out[t, i] = vec.narrow(out[t, i], vec.widen(x[t, i]) * scale * weight[i])


@kernel()
def add_rms_norm(residual, delta, weight, eps, out):  # type: ignore[no-untyped-def]
    """residual += delta, then out = rms_norm(residual); all [T, n]."""
    in_parallel(residual.shape[0], _add_and_norm_rows, (residual, delta, weight, eps, out))


@part(fastmath=_FAST, are_distinct=True)
def _add_and_norm_rows(first, end, residual, delta, weight, eps, out):  # type: ignore[no-untyped-def]
    for t in range(first, end):
        total = np.float32(0)
        for i in range(residual.shape[1]):
            stored = vec.narrow(residual[t, i], vec.widen(residual[t, i]) + vec.widen(delta[t, i]))
            residual[t, i] = stored
            number = vec.widen(stored)
            total += number * number
        scale = np.float32(1) / np.sqrt(total / np.float32(residual.shape[1]) + eps)
        for i in range(residual.shape[1]):
            out[t, i] = vec.narrow(out[t, i], vec.widen(residual[t, i]) * scale * weight[i])


@kernel()
def convert(x, out):  # type: ignore[no-untyped-def]
    """out = x, of another dtype; both [T, n]."""
    in_parallel(x.shape[0], _convert_rows, (x, out))


@part(are_distinct=True)
def _convert_rows(first, end, x, out):  # type: ignore[no-untyped-def]
    for t in range(first, end):
        for i in range(x.shape[1]):
            out[t, i] = vec.narrow(out[t, i], vec.widen(x[t, i]))


@kernel()
def norm_heads(x, first, end, weight, eps):  # type: ignore[no-untyped-def]
    """RMS norm of each head in [first, end) of x [T, heads, dim], in place."""
    in_parallel(x.shape[0], _norm_some_heads, (x, first, end, weight, eps))


@part(fastmath=_FAST, are_distinct=True)
def _norm_some_heads(first_row, end_row, x, first, end, weight, eps):  # type: ignore[no-untyped-def]
    for t in range(first_row, end_row):
        for h in range(first, end):
            total = np.float32(0)
            for i in range(x.shape[2]):
                number = vec.widen(x[t, h, i])
                total += number * number
            scale = np.float32(1) / np.sqrt(total / np.float32(x.shape[2]) + eps)
            for i in range(x.shape[2]):
                x[t, h, i] = vec.narrow(x[t, h, i], vec.widen(x[t, h, i]) * scale * weight[i])


@kernel()
def rotate(x, num_heads, cos, sin):  # type: ignore[no-untyped-def]
    """Rotary embedding of the first `num_heads` heads of x [T, heads, dim], in place.

    cos, sin [T, rotary dim] float32; channels beyond the rotary dim stay as they are.
    """
    in_parallel(x.shape[0], _rotate_rows, (x, num_heads, cos, sin))


@part(are_distinct=True)
def _rotate_rows(first, end, x, num_heads, cos, sin):  # type: ignore[no-untyped-def]
    half = cos.shape[1] // 2
    for t in range(first, end):
        for h in range(num_heads):
            for i in range(half):
                low, high = vec.widen(x[t, h, i]), vec.widen(x[t, h, i + half])
                turned = low * cos[t, i] - high * sin[t, i]
                x[t, h, i] = vec.narrow(x[t, h, i], turned)
                turned = high * cos[t, i + half] + low * sin[t, i + half]
                x[t, h, i + half] = vec.narrow(x[t, h, i + half], turned)
