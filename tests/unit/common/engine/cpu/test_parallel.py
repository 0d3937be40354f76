"""Loops of kernels on all threads: every item once, however many there are; a failure is an error."""

import numba
import numpy as np
import pytest

from common.engine.cpu.jit import kernel, part
from common.engine.cpu.memory import flat, scratch
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.threads import limit_numba

TOO_MANY = 1 << 60
pytestmark = pytest.mark.usefixtures("threads")


@part()
def count_some(first, end, counts, runs, by):  # type: ignore[no-untyped-def]
    runs[first] += 1
    for i in range(first, end):
        counts[i] += by[0]


@kernel()
def count_all(num_items, counts, runs, by):  # type: ignore[no-untyped-def]
    in_parallel(num_items, count_some, (counts, runs, by))


@part()
def allocate_some(first, end, sizes):  # type: ignore[no-untyped-def]
    for i in range(first, end):
        numbers = np.empty(sizes[i], np.float64)
        numbers[0] = 1
        sizes[i] = numbers[0]


@kernel()
def allocate(sizes):  # type: ignore[no-untyped-def]
    in_parallel(sizes.shape[0], allocate_some, (sizes,))


@kernel()
def sum_of_squares(numbers):  # type: ignore[no-untyped-def]
    squares, row = scratch(np.float32, 6), flat(numbers)
    for i in range(6):
        squares[i] = row[i] * row[i]
    total = np.float32(0)
    for i in range(6):
        total += squares[i]
    return total


@pytest.mark.parametrize("num_threads", [1, 2])
def test_each_item_is_done_once_in_runs_of_like_length(num_threads: int) -> None:
    limit_numba(num_threads)
    used = numba.get_num_threads()
    for num_items in (0, 1, 2, 3, 7, 64):
        counts, runs = np.zeros(64, np.int64), np.zeros(64, np.int64)
        count_all(num_items, counts, runs, (3, 4.0))
        assert counts[:num_items].tolist() == [3] * num_items
        assert not counts[num_items:].any()
        begins = np.flatnonzero(runs)
        assert runs.sum() == len(begins) == min(used, num_items)
        lengths = np.diff([*begins, num_items]).tolist()
        # the longer runs come first: work items are dealt out like that (step_arrays.py)
        assert lengths == sorted(lengths, reverse=True)
        assert not lengths or lengths[0] - lengths[-1] <= 1


def test_memory_that_is_not_there_is_an_error_of_the_call() -> None:
    sizes = np.array([2, 3, TOO_MANY, 4])
    with pytest.raises(MemoryError):
        allocate(sizes)
    sizes = np.array([2, 3])
    allocate(sizes)
    assert sizes.tolist() == [1, 1]


def test_a_kernel_has_numbers_of_its_own_and_reads_an_array_as_one_row() -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert sum_of_squares(numbers) == 55
    with pytest.raises(Exception, match="side by side"):
        sum_of_squares(numbers.T)


def test_a_part_becomes_machine_code_only_in_its_kernel() -> None:
    # made here, so that it is compiled: those above may come from disk, without their parts
    @part()
    def add_one(first, end, counts):  # type: ignore[no-untyped-def]
        for i in range(first, end):
            counts[i] += 1

    @kernel()
    def add_ones(counts):  # type: ignore[no-untyped-def]
        in_parallel(counts.shape[0], add_one, (counts,))

    add_ones(np.zeros(4, np.int64))
    (whole,) = {code.library for code in add_ones.overloads.values()}  # type: ignore[attr-defined]
    (alone,) = {code.library for code in add_one.overloads.values()}  # type: ignore[attr-defined]
    assert whole.has_code
    assert not alone.has_code
