"""Sizes of KV memory that make sense for a model, by hand."""

from dataclasses import replace

from common.engine.limits import Limits
from common.engine.memory.kv_want import KVWant
from common.engine.model_spec import ModelSpec
from common.engine.state.layout import StateLayout, StatePart

# 2 layers x (keys and values) x 2 heads x 8 channels x 4 bytes: 256 bytes a position
SPEC = ModelSpec(2, 4, 2, 8, 100, 2048, frozenset(), "float32", "")


def test_states_count_beside_blocks() -> None:
    limits = Limits(3, 512)
    want = KVWant.of(SPEC, limits, 16)
    assert (want.least_tokens, want.least_bytes) == (1024, 1024 * 256)
    assert want.most_bytes == 3 * 2048 * 256
    state = StateLayout((StatePart(0, ("conv", 0), (4, 8), "float32", 128),))
    both = KVWant.of(replace(SPEC, state=state), limits, 16)
    # two versions of 128 bytes for each sequence, and for a scratch slot
    assert both.least_bytes == want.least_bytes + 2 * 2 * 128
    assert both.most_bytes == want.most_bytes + 4 * 2 * 128
