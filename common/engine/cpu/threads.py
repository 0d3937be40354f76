"""Threads of torch and numba: one pool, since both share one libgomp where torch is imported first."""

from collections.abc import Callable

import numba
import torch

get_num_threads: Callable[[], int] = numba.get_num_threads  # of the calling thread


def set_num_threads(num_threads: int) -> None:
    """Have torch and numba use `num_threads` threads.

    numba comes first: its first use resets OpenMP's default, which torch reads. numba's number counts for
    the calling thread alone, torch's everywhere.
    """
    limit_numba(num_threads)
    torch.set_num_threads(num_threads)


def limit_numba(num_threads: int) -> None:
    """Have numba use `num_threads` threads when called from this thread."""
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
