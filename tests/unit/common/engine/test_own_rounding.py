"""A model's own keys and values are rounded as ours are, whatever caches them; what is not is told."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicCache

from common.engine.build import build_engine
from common.engine.memory.quantized_kv import LEVELS
from common.engine.own_rounding import as_cached, rounded, rounded_kv
from common.engine.stages import StageClock
from tests.unit.common.engine.test_own_ways import CASES
from tests.unit.common.engine.tiny_models import engine_config, save_model

TOKENS = 5
LAYERS = {
    **cache_utils.DYNAMIC_LAYER_TYPE_MAPPING,
    **{f"static {k}": v for k, v in cache_utils.STATIC_LAYER_TYPE_MAPPING.items()},
}
OF_ATTENTION = [name for name in LAYERS if not re.search("conv|linear|dummy", name)]


class OwnLayer(cache_utils.DynamicLayer):  # type: ignore[misc]
    """Layer of a cache that asks no other one, as a model's own code may have it."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any) -> Any:
        """Keep nothing."""
        return key_states, value_states


def cached(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
    """Return what a cache of one layer gives back."""
    found = Cache(layers=[layer]).update(keys, values, 0)
    return [x[:, :, :TOKENS] for x in found]


@pytest.mark.parametrize("name", [*OF_ATTENTION, "own"])
def test_every_kind_of_layer_is_given_rounded_numbers(name: str) -> None:
    sizes = {"sliding_window": 8} | ({"max_cache_len": 8} if name.startswith("static") else {})
    kind = OwnLayer if name == "own" else LAYERS[name]
    keys, values = torch.randn(2, 1, 2, TOKENS, 16)
    with rounded_kv(torch.nn.Module(), LEVELS["int8"]) as layers:
        found = cached(kind(**sizes), keys, values)
    assert layers == {0}
    for x, own in zip(found, (keys, values), strict=True):
        assert torch.equal(x, rounded(own, LEVELS["int8"]))
        assert not torch.equal(x, own)
    assert torch.equal(cached(kind(**sizes), keys, values)[0], keys)
    assert as_cached(0, keys, values) == (keys, values)


def remark_of_probe(folder: Path) -> str:
    """Build an engine with 8-bit keys and values; return what its probe says."""
    clock = StageClock()
    config = engine_config(backend="reference", num_blocks=400, kv_cache_dtype="int8")
    build_engine(folder, config, num_threads=1, stage=clock.stage)
    (remark,) = (s.remark for s in clock.so_far().done if s.name == "probing attention")
    return remark


@pytest.mark.parametrize("name", CASES)
def test_families_with_a_way_of_their_own_are_rounded_too(tmp_path: Path, name: str) -> None:
    family, changes = CASES[name]
    assert remark_of_probe(save_model(tmp_path, family, **changes)) == ""


def test_what_is_not_rounded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Play a model whose cache asks no other one."""

    def update(
        self: Any, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found: tuple[torch.Tensor, torch.Tensor] = self.layers[layer_idx].update(keys, values)
        return found

    monkeypatch.setattr(DynamicCache, "update", update, raising=False)
    remark = remark_of_probe(save_model(tmp_path, "llama"))
    assert remark == "compared as full numbers: keys and values of layers 0, 1"
