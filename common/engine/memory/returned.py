"""Memory of freed tensors while a model is loaded: given back to the system at once.

The C library keeps what is freed, for later, below a size that it raises as it goes: up to 32 MiB. Of weights
that are converted and laid out anew, some 40 % stay with the process that way, in pieces that nothing fits.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE_BYTES = 2**20
_KEPT_BYTES = 2**25  # what the size rises to by itself, once a large tensor has been freed


@contextmanager
def returned_at_once() -> Iterator[None]:
    """Give memory of 1 MiB and more back when it is freed; other C libraries than glibc do as they do."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield
        return
    set_option(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    try:
        yield
    finally:
        # steps allocate and free tensors again and again: new pages would cost more than what is computed
        set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        set_option(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES)
