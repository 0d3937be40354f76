"""Freed tensors give their memory back while a model is loaded, whatever lies between them."""

import platform

import psutil
import pytest
import torch

from common.engine.memory.returned import returned_at_once

MIB = 2**20
NUM_TENSORS = 64


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_of_every_other_tensor_is_given_back() -> None:
    process = psutil.Process()
    torch.zeros(7 * MIB)  # from now on the library keeps what is as large
    with returned_at_once():
        tensors = [torch.zeros(MIB) for _ in range(NUM_TENSORS)]  # of 4 MiB
        for tensor in tensors:
            tensor.fill_(1)
        before = process.memory_info().rss
        del tensor, tensors[::2]
        freed = before - process.memory_info().rss
    assert freed > NUM_TENSORS // 2 * 4 * MIB * 0.9
