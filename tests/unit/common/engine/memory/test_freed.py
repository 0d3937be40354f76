"""Freed memory goes back to the system, where the C library can do that."""

import ctypes

import psutil
import pytest
import torch

from common.engine.memory.freed import give_freed_back

MIB = 2**20
pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no such call"
)


def test_gaps_between_what_stays_are_given_back() -> None:
    parts = [torch.ones(MIB // 64) for _ in range(2048)]  # 64 KiB each, of the heap
    kept = parts[::64]
    del parts
    before = psutil.Process().memory_info().rss
    give_freed_back()
    assert before - psutil.Process().memory_info().rss > 64 * MIB
    assert all(bool(part.all()) for part in kept)
