"""A mixture that lacks a part of one expert is refused by that part's name."""

from pathlib import Path

import pytest
import torch

from tests.unit.common.engine.tiny_models import FAMILIES, save_model
from tests.unit.common.engine.weights.edited import add, cut, drop, edit
from tests.unit.common.engine.weights.loading import load, refusal
from tests.unit.common.engine.weights.tiny_multimodal import save_tiny


@pytest.fixture
def mixtral(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(FAMILIES, "mixtral", FAMILIES["llama"] | {"num_local_experts": 4})
    return save_model(tmp_path / "mixtral", "mixtral")


EXPERTS = "model.layers.1.block_sparse_moe.experts"


@pytest.mark.parametrize("part", ["0.w3", "2.w1", "2.w2", "3.w1", "3.w2"])
def test_a_missing_part_of_an_expert_is_named(mixtral: Path, part: str) -> None:
    load(mixtral)
    name = f"{EXPERTS}.{part}.weight"
    edit(mixtral, drop(name))
    assert f"lacks the tensor {name}" in str(refusal(mixtral))


def test_a_missing_expert_is_a_stack_of_another_shape(mixtral: Path) -> None:
    edit(mixtral, drop(*(f"{EXPERTS}.3.{part}.weight" for part in ("w1", "w2", "w3"))))
    message = "model.layers.1.mlp.experts.down_proj has the shape [3, 64, 128]"
    assert message in str(refusal(mixtral))


@pytest.mark.parametrize(("part", "found"), [("2.w3", [127, 64]), ("2.w2", [63, 128])])
def test_an_expert_of_another_shape_is_named(mixtral: Path, part: str, found: list[int]) -> None:
    name = f"{EXPERTS}.{part}.weight"
    edit(mixtral, cut(name))
    assert f"{name} has the shape {found}" in str(refusal(mixtral))


def test_of_a_model_that_also_speaks_the_experts_that_write_are_named(tmp_path: Path) -> None:
    save_tiny(tmp_path, "qwen3_omni_moe")
    for expert in range(2):
        name = f"talker.model.layers.0.mlp.experts.{expert}.up_proj.weight"
        edit(tmp_path, add(name, torch.zeros(2 + expert, 3)))
    load(tmp_path)
    written = "thinker.model.layers.0.mlp.experts.1.up_proj.weight"
    edit(tmp_path, drop(written))
    assert f"lacks the tensor {written}" in str(refusal(tmp_path))
