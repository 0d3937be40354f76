"""Freed memory that the C library keeps, given back to the system."""

import ctypes


def give_freed_back() -> None:
    """Give freed memory of the heap back; do nothing where the C library has no such call.

    Passes over all weights, one part at a time, leave gaps between what stays: for small models more than
    their weights.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc
        library.malloc_trim(0)
