"""Kernels for the work of a fused decoder layer between its matrix products.

Arrays hold float32, bfloat16 as uint16, or float16 as int16; arithmetic is float32. Each row is computed
by one thread in a fixed order, so a row's result does not depend on its neighbours.
"""

import numba
import numpy as np

from common.engine.cpu import vector as vec
from common.engine.cpu.jit import kernel

# reassociation alone lets the sums vectorise; NaN and infinity keep their meaning
_FAST = {"reassoc", "contract"}


@kernel(fastmath=_FAST)
def rms_norm(x, weight, eps, out):  # type: ignore[no-untyped-def]
    """out[t] = x[t] / rms(x[t]) * weight; x and out [T, n] may be one array."""
    for t in numba.prange(x.shape[0]):
        total = np.float32(0)
        for i in range(x.shape[1]):
            number = vec.widen(x[t, i])
            total += number * number
        scale = np.float32(1) / np.sqrt(total / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            out[t, i] = vec.narrow(out[t, i], vec.widen(x[t, i]) * scale * weight[i])


@kernel(fastmath=_FAST)
def add_rms_norm(residual, delta, weight, eps, out):  # type: ignore[no-untyped-def]
    """residual += delta, then out = rms_norm(residual); all [T, n]."""
    for t in numba.prange(residual.shape[0]):
        total = np.float32(0)
        for i in range(residual.shape[1]):
            stored = vec.narrow(residual[t, i], vec.widen(residual[t, i]) + vec.widen(delta[t, i]))
            residual[t, i] = stored
            number = vec.widen(stored)
            total += number * number
        scale = np.float32(1) / np.sqrt(total / np.float32(residual.shape[1]) + eps)
        for i in range(residual.shape[1]):
            out[t, i] = vec.narrow(out[t, i], vec.widen(residual[t, i]) * scale * weight[i])


@kernel(fastmath=_FAST)
def norm_heads(x, first, end, weight, eps):  # type: ignore[no-untyped-def]
    """RMS norm of each head in [first, end) of x [T, heads, dim], in place."""
    for t in numba.prange(x.shape[0]):
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
    half = cos.shape[1] // 2
    for t in numba.prange(x.shape[0]):
        for h in range(num_heads):
            for i in range(half):
                low, high = vec.widen(x[t, h, i]), vec.widen(x[t, h, i + half])
                turned = low * cos[t, i] - high * sin[t, i]
                x[t, h, i] = vec.narrow(x[t, h, i], turned)
                turned = high * cos[t, i + half] + low * sin[t, i + half]
                x[t, h, i + half] = vec.narrow(x[t, h, i + half], turned)
