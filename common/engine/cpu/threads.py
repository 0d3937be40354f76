"""One pool of threads for torch and numba (torch must be imported first: both then share one libgomp)."""

import numba
import torch


def set_num_threads(num_threads: int) -> None:
    """Have torch and numba use `num_threads` threads.

    numba's first use resets OpenMP's default, which torch reads: so numba comes first. What numba is told
    counts for the calling thread alone; torch's number counts everywhere.
    """
    limit_numba(num_threads)
    torch.set_num_threads(num_threads)


def limit_numba(num_threads: int) -> None:
    """Have numba use `num_threads` threads when called from this thread."""
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
