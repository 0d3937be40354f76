"""Sampling on the CPU: rows of logits in parallel, in their stored dtype."""

import numba
import numpy as np

from common.engine.cpu import vector as vec
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import kernel

_WIDTH = 128


@kernel()
def greedy_tokens(logits, tokens, finite):  # type: ignore[no-untyped-def]
    """For logits [n, vocab]: the first index of each row's maximum, and whether the whole row is finite."""
    for r in numba.prange(logits.shape[0]):
        row = logits[r]
        finite[r] = np.isfinite(_total(row))
        tokens[r] = _index_of(row, _largest(row)) if finite[r] else 0


@kernel(parallel=False, fastmath={"reassoc"})
def _total(row):  # type: ignore[no-untyped-def]
    # one NaN or infinity makes the sum so; finite logits are far from overflowing it
    total = np.float32(0)
    for i in range(row.shape[0]):
        total += vec.widen(row[i])
    return total


@kernel(parallel=False)
def _largest(row):  # type: ignore[no-untyped-def]
    # many running maxima side by side, since a single one is a chain that no compiler vectorises
    peaks = np.full(_WIDTH, -np.inf, np.float32)
    whole = row.shape[0] // _WIDTH * _WIDTH
    for start in range(0, whole, _WIDTH):
        for i in range(_WIDTH):
            number = vec.widen(row[start + i])
            peaks[i] = number if number > peaks[i] else peaks[i]
    for i in range(whole, row.shape[0]):
        peaks[0] = max(peaks[0], vec.widen(row[i]))
    return peaks.max()


@kernel(parallel=False)
def _index_of(row, number):  # type: ignore[no-untyped-def]
    for i in range(row.shape[0]):
        if vec.widen(row[i]) == number:
            return i
    return 0


@kernel()
def draw_tokens(logits, rows, temperatures, draws, tokens):  # type: ignore[no-untyped-def]
    """Inverse of each row's cumulative softmax(logits / temperature) at `draws`, for the listed rows.

    Weights are float32, their sums float64, so that the tail of a large vocabulary is not lost. All of
    `rows`, `temperatures` and `draws` have one entry for each row drawn.
    """
    for k in numba.prange(rows.shape[0]):
        row = logits[rows[k]]
        slope = np.float32(1 / temperatures[k])
        tokens[rows[k]] = _draw(row, _largest(row), slope, draws[k])


@kernel(parallel=False)
def _draw(row, peak, slope, draw):  # type: ignore[no-untyped-def]
    weights = np.empty(LANES, np.float32)
    total = 0.0
    for start in range(0, row.shape[0], LANES):
        total += _weigh(row, start, peak, slope, weights)
    target, passed = draw * total, 0.0
    for start in range(0, row.shape[0], LANES):
        part = _weigh(row, start, peak, slope, weights)
        if passed + part > target:
            for i in range(LANES):
                passed += weights[i]
                if passed > target:
                    return min(start + i, row.shape[0] - 1)
        else:
            passed += part
    return row.shape[0] - 1


@kernel(parallel=False)
def _weigh(row, start, peak, slope, weights):  # type: ignore[no-untyped-def]
    if start + LANES <= row.shape[0]:
        vec.softmax_weights(row, start, peak, slope, weights)
    else:
        for i in range(LANES):
            in_row = start + i < row.shape[0]
            weights[i] = np.exp((vec.widen(row[start + i]) - peak) * slope) if in_row else 0
    total = 0.0
    for i in range(LANES):
        total += weights[i]
    return total
