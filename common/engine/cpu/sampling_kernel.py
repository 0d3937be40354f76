"""Sampling on the CPU: rows of logits in parallel, in their stored dtype."""

import numpy as np

from common.engine.cpu import vector as vec
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.race import race
from common.engine.cpu.reduce import STRIDE, peak_and_total, softmax_total

_SPAN = 4096  # numbers that are read several times: they stay in the nearest cache
_RUN = 16 * LANES  # summed in float32


@kernel()
def greedy_tokens(logits, tokens, finite):  # type: ignore[no-untyped-def]
    """Find the first index of each row's maximum in logits [n, vocab], and whether the row is finite."""
    in_parallel(logits.shape[0], _find_greedy, (logits, tokens, finite))


@part()
def _find_greedy(first, end, logits, tokens, finite):  # type: ignore[no-untyped-def]
    for r in range(first, end):
        row = logits[r]
        total, peak, at = np.float32(0), np.float32(-np.inf), 0
        for start in range(0, row.shape[0], _SPAN):
            span = row[start : start + _SPAN]
            highest, part = _survey(span)
            total += part
            if highest > peak:
                peak, at = highest, start
        finite[r] = total - total == 0
        tokens[r] = at + _index_of(row[at : at + _SPAN], peak)


@part()
def _survey(row):  # type: ignore[no-untyped-def]
    # one NaN or infinity makes the sum so; finite logits are far from overflowing it
    whole = row.shape[0] // STRIDE * STRIDE
    peak, total = peak_and_total(row, 0, whole)
    for i in range(whole, row.shape[0]):
        number = vec.widen(row[i])
        peak, total = number if number > peak else peak, total + number
    return peak, total


@part()
def largest(row):  # type: ignore[no-untyped-def]
    """Return the maximum; NaN is passed over."""
    return _survey(row)[0]


@part()
def _index_of(row, number):  # type: ignore[no-untyped-def]
    for i in range(row.shape[0]):
        if vec.widen(row[i]) == number:
            return i
    return 0


@kernel()
def draw_tokens(logits, rows, temperatures, keys, tokens):  # type: ignore[no-untyped-def]
    """Draw from softmax(logits / temperature) of the listed rows, with the noise of `keys` (uint64).

    All of `rows`, `temperatures` and `keys` have one entry for each row drawn.
    """
    in_parallel(rows.shape[0], _draw_some, (logits, rows, temperatures, keys, tokens))


@part()
def _draw_some(first, end, logits, rows, temperatures, keys, tokens):  # type: ignore[no-untyped-def]
    for k in range(first, end):
        row = logits[rows[k]]
        tokens[rows[k]] = race(row, largest(row), temperatures[k], keys[k])


@part()
def mass(row, peak, slope, weights):  # type: ignore[no-untyped-def]
    """Sum exp((row - peak) * slope), in float64 but for short runs; weights[:LANES] is scratch."""
    total, whole = 0.0, row.shape[0] // _RUN * _RUN
    for start in range(0, whole, _RUN):
        total += softmax_total(row, start, peak, slope, _RUN)
    for start in range(whole, row.shape[0], LANES):
        total += weigh(row, start, peak, slope, weights)
    return total


@part(fastmath={"reassoc"})
def weigh(row, start, peak, slope, weights):  # type: ignore[no-untyped-def]
    """weights[:LANES] = exp((row[start:] - peak) * slope), 0 beyond the row's end; returns their sum."""
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


@kernel()
def adjust(logits, rows, biases, seen, penalties, out):  # type: ignore[no-untyped-def]
    """Fill `out` [m, vocab] with the listed rows, adjusted as sampling/options.Adjustments says.

    `biases` and `seen` are (starts, ids, values), `penalties` are (repetition, presence, frequency).
    """
    in_parallel(rows.shape[0], _adjust_some, (logits, rows, biases, seen, penalties, out))


@part()
def _adjust_some(first, end, logits, rows, biases, seen, penalties, out):  # type: ignore[no-untyped-def]
    for k in range(first, end):
        row, to = logits[rows[k]], out[k]
        for i in range(row.shape[0]):
            to[i] = vec.widen(row[i])
        starts, ids, values = biases
        for i in range(starts[k], starts[k + 1]):
            to[ids[i]] += values[i]
        starts, ids, values = seen
        repetition, presence, frequency = penalties[0][k], penalties[1][k], penalties[2][k]
        for i in range(starts[k], starts[k + 1]):
            logit = to[ids[i]]
            logit = logit / repetition if logit > 0 else logit * repetition
            is_output = np.float32(values[i] > 0)
            to[ids[i]] = logit - frequency * values[i] - presence * is_output
