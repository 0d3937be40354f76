"""Copies that overlap computation, on the device."""

import pytest
import torch

from tests.unit.common.engine.attention.paged import Shape, make_cache

pytestmark = pytest.mark.gpu


def test_blocks_that_are_given_back_and_written_again_were_read_before() -> None:
    shape = Shape(256, 64, num_heads=9, num_kv_heads=3, dtype="bfloat16")
    cache = make_cache(shape, 4, 0.0, "pages", "cuda")
    assert cache.reads_overlap
    cache.keys.normal_()
    cache.values.normal_()
    expected = cache.read([3, 1, 2], 100, 700)
    waits = []
    for _ in range(20):
        waits.append(cache.start_read([3, 1, 2], 100, 700))
    cache.keys.zero_()
    cache.values.zero_()
    for wait in waits:
        copied = wait()
        assert copied.is_pinned()
        assert torch.equal(copied, expected)
