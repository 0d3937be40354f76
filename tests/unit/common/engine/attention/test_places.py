"""Layers whose keys and values have other shapes than the blocks."""

import pytest
import torch

from common.engine.attention.form import UnsupportedAttentionError
from common.engine.attention.interface import paged_attention
from common.engine.attention.places import place_of
from common.engine.attention.reference import ReferenceBackend
from common.engine.memory.kv_cache import KVCache
from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import KVShape

SHAPES = KVShape(2, 16, 16), KVShape(1, 32, 8)
SPEC = ModelSpec(
    3, 4, 2, 16, 99, 64, frozenset(), "float32", "model", own_kv_shapes=SHAPES, kv_places=(1, 0, 2)
)


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (1, (4, 16, 16), "has 4 KV heads of 16 channels, its configuration says (2, 16)"),
        (0, (1, 32, 32), "has 1 KV heads of 32 channels, its configuration says (1, 32, 8)"),
        (2, (2, 16, 16), "its configuration knows no such layer"),
        (9, (2, 16, 16), "its configuration knows no such layer"),
    ],
)
def test_blocks_are_never_overrun(layer: int, shape: tuple[int, int, int], reason: str) -> None:
    with pytest.raises(UnsupportedAttentionError) as caught:
        find(layer, shape)
    assert f"Attention (layer {layer}) " in str(caught.value)
    assert reason in str(caught.value)


def test_a_layer_finds_its_place() -> None:
    assert (find(0, SHAPES[1]), find(1, SHAPES[0])) == (1, 0)


def test_a_layer_that_drops_the_keyword_is_refused() -> None:
    module = torch.nn.Identity()
    module.layer_idx = 0
    query, key, value = torch.randn(3, 1, 2, 5, 16).unbind()
    with pytest.raises(UnsupportedAttentionError, match="Identity drops the keyword"):
        paged_attention(module, query, key, value, None)


def find(layer: int, shape: tuple[int, int, int]) -> int:
    """Return the place of keys and values of this shape, in a model of three layers."""
    heads, *channels = shape
    key, value = (torch.empty(1, heads, 5, size) for size in channels)
    backend = ReferenceBackend(KVCache(SPEC, 2, 16, torch.device("cpu"), "pages"))
    return place_of("Attention", layer, key, value, backend)
