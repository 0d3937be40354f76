"""A model whose weights are laid out anew loses them, and nothing that is still used."""

from pathlib import Path

import pytest
import torch

from common.config import Backend
from common.engine.build import build_engine
from common.engine.fused.families import activation_of, fuse
from common.engine.fused.weights import AsStored, Linear
from tests.unit.common.engine.fused.fusing import fuse_as_stored
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import (
    continue_greedily,
    engine_config,
    load_reference,
    save_model,
)
from tests.unit.common.engine.weights.loading import load

FUSED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text")
PROMPT = [5, 17, 90, 3, 44]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FUSED)
def test_merged_weights_are_the_same_and_their_parts_are_gone(
    tmp_path: Path, family: str, tied: bool
) -> None:
    folder = save_model(tmp_path, family, tie_word_embeddings=tied)
    kept = fuse_as_stored(load(folder))
    model = load(folder)
    activation = activation_of(model)
    assert activation is not None
    weights = fuse(model, activation, AsStored(), may_empty=True)
    assert kept is not None
    assert weights is not None
    for layer, expected in zip(weights.layers, kept.layers, strict=True):
        for name in ("qkv", "gate_up", "down", "output"):
            assert torch.equal(getattr(layer, name).weight, getattr(expected, name).weight)
        assert torch.equal(layer.mlp_norm, expected.mlp_norm)
    assert torch.equal(weights.head.weight, kept.head.weight)
    assert torch.equal(weights.embedding.weight, kept.embedding.weight)
    attention = model.model.layers[1].self_attn
    assert attention.o_proj.weight.numel()  # used as it is
    if family != "phi3":  # whose three products are stored as one
        assert not attention.q_proj.weight.numel()
        assert not model.model.layers[0].mlp.up_proj.weight.numel()


class Watching(AsStored):
    """Layout that notes how many numbers the model still holds when a gate is laid out."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.held = model, list[int]()

    def gated(self, layer: Linear) -> Linear:
        self.held.append(sum(parameter.numel() for parameter in self.model.parameters()))
        return layer


def test_no_more_than_a_layer_is_held_twice(tmp_path: Path) -> None:
    model = load(save_model(tmp_path, "llama", num_hidden_layers=4))
    merged = 64 * (64 + 2 * 32) + 64 * 2 * 128  # q, k, v, gate and up of a layer
    layout = Watching(model)
    assert fuse(model, "silu", layout, may_empty=True) is not None
    first = layout.held[0]
    assert layout.held == [first - merged * layer for layer in range(4)]


def test_a_model_that_cannot_be_fused_keeps_its_weights(tmp_path: Path) -> None:
    model = load(save_model(tmp_path, "llama"))
    model.extra = torch.nn.Parameter(torch.ones(3))
    before = [parameter.clone() for parameter in model.parameters()]
    assert fuse(model, "silu", AsStored(), may_empty=True) is None
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_engine_of_an_emptied_model_gives_the_tokens_of_transformers(
    tmp_path: Path, backend: Backend
) -> None:
    folder = save_model(tmp_path, "llama")
    engine = build_engine(folder, engine_config(backend=backend), num_threads=1)
    expected = continue_greedily(load_reference(folder), PROMPT, 8)
    assert continuations(engine, [PROMPT], 8, budget=16) == [expected]
