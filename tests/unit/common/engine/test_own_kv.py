"""Keys and values are compared at load too where a family keeps others than `transformers`' cache has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.engine.attention.reference import ReferenceBackend
from common.engine.build import build_engine
from common.engine.own_kv import like_stored, own_layers
from common.engine.stages import StageClock
from common.kv_transfer.layout import KVShape
from pdserve.errors import SetupError
from tests.unit.common.engine.test_own_ways import CASES
from tests.unit.common.engine.tiny_models import engine_config, save_model

OWN_WAYS = ("no cache", "two passes over halves of values", "experts with the same keys")


@pytest.fixture(params=OWN_WAYS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    family, changes = CASES[request.param]
    return save_model(tmp_path, family, **changes)


def remark_of_probe(folder: Path) -> str:
    """Build an engine in bfloat16, whose logits alone would hide much; return what its probe says."""
    clock = StageClock()
    config = engine_config(dtype="bfloat16", backend="reference", num_blocks=400)
    build_engine(folder, config, num_threads=1, stage=clock.stage)
    (remark,) = (s.remark for s in clock.so_far().done if s.name == "probing attention")
    return remark


def test_every_layer_is_compared(folder: Path) -> None:
    assert remark_of_probe(folder) == ""


def test_wrong_values_are_refused_by_layer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., torch.Tensor] = ReferenceBackend.attend

    def attend(
        self: Any, layer: int, query: Any, key: Any, value: Any, *others: Any
    ) -> torch.Tensor:
        return right(self, layer, query, key, value * (1.0, 3.0)[layer], *others)

    monkeypatch.setattr(ReferenceBackend, "attend", attend)
    with pytest.raises(SetupError, match="the keys and values of layer 1 differ"):
        remark_of_probe(folder)


def test_what_cannot_be_compared_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.engine.self_check.keys_and_values", lambda layer: None)
    assert remark_of_probe(folder) == "not compared: keys and values of layers 0, 1"


def test_heads_are_repeated_or_paired_as_they_are_stored() -> None:
    keys, values = torch.randn(9, 2, 16), torch.randn(9, 2, 16)
    found = like_stored((keys, values), (keys, values), KVShape(4, 16, 16))
    assert found is not None
    assert torch.equal(found[0], torch.cat((keys, keys), dim=1))
    found = like_stored((keys, values), (keys, values), KVShape(2, 16, 32))
    assert found is not None
    assert torch.equal(found[1], values.flatten(1)[:, None].expand(9, 2, 32))


class OfBoth:
    """Cache of a decoder that could attend to an encoder."""

    class self_attention_cache:
        layers = ("own",)


class Output:
    past_key_values = OfBoth


def test_the_cache_of_a_decoder_is_found_beside_that_of_an_encoder() -> None:
    assert own_layers(Output) == ["own"]
