"""Matrix products of a few rows, as decode steps need them: bound by reading the weights once.

BLAS libraries block for many rows and reach a third of the memory's speed for one; here 16 sums stay in
registers while weights stream by. `panel_matmul.py` is faster, where weights lie in panels.
"""

from collections.abc import Callable

import numba
import numpy as np

from common.engine.cpu import vector as vec
from common.engine.cpu.dot import SUMS, dot_tile
from common.engine.cpu.jit import inlined, kernel

OUTPUTS = 16  # rows of weights taken together; must divide their number
DEPTH = 32  # must divide the length of a row
_ITEM = 2 * OUTPUTS


def _tile_function(tokens: int) -> Callable[..., None]:
    """`tokens` rows of x against OUTPUTS rows of w."""
    outputs = 4

    def run(x, token, w, first, depth, bias, out, sums):  # type: ignore[no-untyped-def]
        for n in range(first, first + OUTPUTS, outputs):
            dot_tile(x, token * depth, w, n * depth, depth, sums, tokens, outputs)
            for i in range(tokens):
                for j in range(outputs):
                    total = sums[i * outputs + j]
                    if bias.shape[0] > 0:
                        total += bias[n + j]
                    out[token + i, n + j] = vec.narrow(out[token + i, n + j], total)

    return inlined(run, str(tokens))


_one, _two, _three, _four = (_tile_function(tokens) for tokens in (1, 2, 3, 4))


@kernel()
def skinny_matmul(x, w, bias, out):  # type: ignore[no-untyped-def]
    """out [T, N] = x [T, K] @ w [N, K]^T + bias (float32 [N], or empty for none); sums in float32."""
    tokens, depth, outputs = x.shape[0], x.shape[1], w.shape[0]
    flat_x, flat_w = x.reshape(-1), w.reshape(-1)
    for item in numba.prange((outputs + _ITEM - 1) // _ITEM):
        sums = np.empty(SUMS, np.float32)
        for first in range(item * _ITEM, min((item + 1) * _ITEM, outputs), OUTPUTS):
            token = 0
            while token < tokens:
                left = tokens - token
                if left >= 4 and left != 5:
                    _four(flat_x, token, flat_w, first, depth, bias, out, sums)
                    token += 4
                elif left >= 3:
                    _three(flat_x, token, flat_w, first, depth, bias, out, sums)
                    token += 3
                elif left == 2:
                    _two(flat_x, token, flat_w, first, depth, bias, out, sums)
                    token += 2
                else:
                    _one(flat_x, token, flat_w, first, depth, bias, out, sums)
                    token += 1
