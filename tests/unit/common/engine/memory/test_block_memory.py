import mmap
import re
from pathlib import Path

import torch

from common.engine.memory.block_memory import take_in_background, zeros
from tests.patience import WITHIN_S

CPU = torch.device("cpu")
MIB = 2**20


def resident_bytes(tensor: torch.Tensor) -> int:
    """Return the resident bytes of the mapping that holds a tensor, as the kernel counts them."""
    for entry in re.split(r"\n(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text()):
        start, end = (int(number, 16) for number in entry.split(maxsplit=1)[0].split("-"))
        if start <= tensor.data_ptr() < end:
            found = re.search(r"^Rss: +(\d+) kB", entry, re.MULTILINE)
            return 1024 * int(found[1]) if found else 0
    raise AssertionError("no such mapping")


def test_memory_is_zero_and_not_taken_before_it_is_used() -> None:
    memory = zeros((8, MIB), torch.float32, CPU)
    before = resident_bytes(memory)
    memory[3] = 1.0
    assert resident_bytes(memory) >= before + 4 * MIB
    assert memory.sum() == MIB


def test_at_most_so_much_is_taken_of_the_first_blocks_of_each_layer() -> None:
    """8 layers of 64 blocks of 64 KiB; huge pages make the pieces that are taken whole multiples of 2 MiB."""
    memory = zeros((8, 64, 16384), torch.float32, CPU)
    take_in_background((memory,), max_bytes=memory.nbytes // 4).join(WITHIN_S)
    assert memory.nbytes // 4 <= resident_bytes(memory) <= 3 * memory.nbytes // 4
    before = resident_bytes(memory)
    for layer in memory:
        layer[15] = 1.0  # the last block of the quarter
    assert resident_bytes(memory) == before


def test_memory_is_taken_in_the_background_and_keeps_what_was_written() -> None:
    memory = zeros((9, MIB + mmap.PAGESIZE // 2), torch.bfloat16, CPU)
    memory[5, 7] = 3.0
    take_in_background((memory,)).join(WITHIN_S)
    assert resident_bytes(memory) >= memory.nbytes
    assert memory.sum() == 3.0
