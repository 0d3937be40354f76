"""Top k, top p and min p on the CPU without a sort: each is a floor, below which logits become -inf.

A cheap bound first leaves few candidates of a large vocabulary. The floor is then found among them by
halving their range of values.
"""

import numpy as np

from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.memory import bits_of, from_bits
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.sampling_kernel import largest, mass, weigh

_LOWEST = np.finfo(np.float32).min
_PEAKS = 1024
_BLOCK = 64


@kernel()
def truncate(logits, temperature, top_k, top_p, min_p):  # type: ignore[no-untyped-def]
    """Truncate float32 logits [m, vocab] in place, by one of each option a row (SamplingKernels.truncate)."""
    in_parallel(logits.shape[0], _truncate_some, (logits, temperature, top_k, top_p, min_p))


@part()
def _truncate_some(first, end, logits, temperature, top_k, top_p, min_p):  # type: ignore[no-untyped-def]
    # once a thread, not once a row: memory that comes and goes is mapped anew each time
    numbers = np.empty(logits.shape[1] + LANES, np.float32)
    weights = np.empty(logits.shape[1] + LANES, np.float32)
    keys = np.empty(logits.shape[1], np.int32)
    for r in range(first, end):
        row, peak = logits[r], largest(logits[r])
        slope = np.float32(1 / temperature[r])
        floor = _floor(row, peak, slope, top_k[r], top_p[r], numbers, weights, keys)
        floor = max(floor, peak + np.log(min_p[r]) * temperature[r])
        for i in range(row.shape[0]):
            row[i] = row[i] if row[i] >= floor else np.float32(-np.inf)


@part()
def _floor(row, peak, slope, top_k, top_p, numbers, weights, keys):  # type: ignore[no-untyped-def]
    """Return the least logit that top k and then top p leave; `numbers`, `weights`, `keys` are scratch."""
    floor, count, total = np.float32(-np.inf), -1, 0.0
    if 0 < top_k < row.shape[0]:
        count = _gather(row, _top_k_bound(row, top_k, numbers, weights, keys), numbers)
        for i in range(count):
            weights[i] = 1
        floor = _heaviest_floor(numbers, weights, count, top_k, keys)
        count = _gather(numbers[:count], floor, numbers)
    if top_p < 1:
        if count < 0:
            total = mass(row, peak, slope, weights)
            # all that weigh no more than `light` do not make 1 - top_p together: the floor is above them
            light = (1 - top_p) * total / row.shape[0]
            count = _gather(row, peak + (np.log(light) - 0.01) / slope, numbers)
            _weigh_all(numbers[:count], peak, slope, weights)
        else:
            total = _weigh_all(numbers[:count], peak, slope, weights)
        floor = max(floor, _heaviest_floor(numbers, weights, count, top_p * total, keys))
    return np.float64(floor)


@part()
def _top_k_bound(row, k, numbers, weights, keys):  # type: ignore[no-untyped-def]
    """Return a number that is no larger than the k-th largest, and for a small k close to it."""
    if not k <= _PEAKS < row.shape[0]:
        return np.float32(-np.inf)
    # k of so many disjoint parts have a maximum as large as the k-th largest maximum
    peaks = numbers[:_PEAKS]
    for i in range(_PEAKS):
        peaks[i] = -np.inf
    for start in range(0, row.shape[0] // _PEAKS * _PEAKS, _PEAKS):
        for i in range(_PEAKS):
            peaks[i] = max(peaks[i], row[start + i])
    count = _gather(peaks, np.float32(-np.inf), peaks)
    for i in range(count):
        weights[i] = 1
    if count < k:
        return np.float32(-np.inf)
    return _heaviest_floor(peaks, weights, count, k, keys)


@part()
def _gather(row, bound, numbers):  # type: ignore[no-untyped-def]
    """Put finite numbers not below `bound` into `numbers`, which may be `row`; return how many."""
    lowest = max(bound, _LOWEST)
    count = 0
    for start in range(0, row.shape[0], _BLOCK):
        block = row[start : start + _BLOCK]
        found = 0
        for i in range(block.shape[0]):
            found += block[i] >= lowest
        if found:
            for i in range(block.shape[0]):
                number = block[i]
                numbers[count] = number
                count += number >= lowest
    return count


@part()
def _weigh_all(row, peak, slope, weights):  # type: ignore[no-untyped-def]
    """weights[i] = exp((row[i] - peak) * slope), up to the next multiple of LANES; returns their sum."""
    total = 0.0
    for start in range(0, row.shape[0], LANES):
        total += weigh(row, start, peak, slope, weights[start:])
    return total


@part()
def _heaviest_floor(numbers, weights, count, target, keys):  # type: ignore[no-untyped-def]
    """Return the largest of numbers[:count] from which on numbers weigh `target`; else the least.

    `keys` is scratch: the numbers as integers of the same order, so that 32 halvings find any of them.
    """
    low, high = np.int64(2**31), np.int64(-(2**31))
    for i in range(count):
        bits = bits_of(numbers[i])
        keys[i] = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        low, high = min(low, keys[i]), max(high, keys[i])
    while low < high:
        middle = high - (high - low) // 2
        if _weight_from(keys, weights, count, np.int32(middle)) >= target:
            low = middle
        else:
            high = middle - 1
    return from_bits(np.int32(np.int32(low) ^ ((np.int32(low) >> 31) & 0x7FFFFFFF)))


@part(fastmath={"reassoc"})
def _weight_from(keys, weights, count, key):  # type: ignore[no-untyped-def]
    total = np.float64(0)
    for i in range(count):
        total += weights[i] if keys[i] >= key else np.float32(0)
    return total
