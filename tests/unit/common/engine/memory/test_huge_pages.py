"""Memory of weights: tensors that do not overlap, in chunks that begin where a huge page does."""

import gc

import torch

from common.engine.memory.huge_pages import HugePages, private_bytes

HUGE = 2**21


def test_tensors_lie_one_behind_the_other_at_lines() -> None:
    memory = HugePages()
    first, second = memory.empty((3, 5), torch.bfloat16), memory.empty((7,), torch.int32)
    assert first.shape == (3, 5)
    assert first.dtype == torch.bfloat16
    assert first.data_ptr() % HUGE == 0
    assert second.data_ptr() == first.data_ptr() + 64
    first.fill_(1)
    second.fill_(2)
    assert (first == 1).all()


def test_a_large_tensor_has_memory_of_its_own_and_small_ones_share_on() -> None:
    memory = HugePages()
    small, large = memory.empty((16,), torch.uint8), memory.empty((2**26 + 1,), torch.uint8)
    assert large.data_ptr() % HUGE == 0
    large[-1] = 7
    small.fill_(1)
    assert large[-1] == 7
    assert large[0] == 0
    assert memory.empty((16,), torch.uint8).data_ptr() == small.data_ptr() + 64


def test_what_does_not_fit_begins_another_chunk() -> None:
    memory = HugePages()
    first, second = (memory.empty((2**25 + 1,), torch.uint8) for _ in range(2))
    assert second.data_ptr() % HUGE == 0
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()


def test_a_copy_has_the_numbers_and_the_shape() -> None:
    words = torch.arange(12, dtype=torch.int32).view(torch.uint32).view(3, 4)
    copy = HugePages().copy(words)
    assert copy.dtype == torch.uint32
    assert copy.shape == (3, 4)
    assert copy.view(torch.int32).flatten().tolist() == list(range(12))


def test_a_tensor_of_no_numbers() -> None:
    assert HugePages().empty((0, 4), torch.float32).shape == (0, 4)


def test_tensors_outlive_the_allocator() -> None:
    memory = HugePages()
    tensor = memory.empty((4,), torch.uint8)
    del memory
    gc.collect()
    assert tensor.fill_(3).tolist() == [3, 3, 3, 3]


def test_private_memory_is_zeroed() -> None:
    assert not private_bytes(5000).any()
