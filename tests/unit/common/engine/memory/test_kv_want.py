from dataclasses import replace

from common.engine.limits import Limits
from common.engine.memory.kv_want import KVWant
from common.engine.model_spec import ModelSpec

# 2 * 30 layers * 3 heads * 64 channels * 2 bytes = 23,040 bytes a token
SMOL = ModelSpec(30, 9, 3, 64, 49152, 8192, frozenset({2}), "bfloat16", "smol")
LIMITS = Limits(64, 512)


def test_the_least_is_one_sequence_and_the_most_all_of_them_with_the_whole_context() -> None:
    assert KVWant.of(SMOL, LIMITS, 16) == KVWant(1024, 1024 * 23_040, 64 * 8192 * 23_040)


def test_sizes_are_of_whole_blocks_and_at_least_two() -> None:
    short = replace(SMOL, max_context_tokens=100)
    assert KVWant.of(short, LIMITS, 256) == KVWant(100, 2 * 256 * 23_040, 64 * 256 * 23_040)
