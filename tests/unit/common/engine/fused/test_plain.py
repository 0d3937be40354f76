"""Only a family's own parts are fused: any other part leaves the model to the general path."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from common.engine.build import assemble_engine
from common.engine.fused.plain import is_plain
from common.engine.weights.load import load_model
from tests.unit.common.engine.fused.fusing import fuse_as_stored
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    save_model,
)

PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (20, 3)]


class Doubled(nn.Linear):  # type: ignore[misc]
    """Layer that computes something else than its weight says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Adapted(nn.Module):  # type: ignore[misc]
    """Layer wrapped as LoRA does: the original, and a product of lower rank beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.base_layer(x) + self.up(self.down(x))


class Packed(nn.Linear):  # type: ignore[misc]
    """Layer packed as by bitsandbytes: a weight of another shape, and no product with it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False)
        scale = base.weight.detach().abs().max() / 127
        self.register_buffer(
            "packed", (base.weight.detach() / scale).round().to(torch.int8).view(-1, 1)
        )
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.packed.view(self.out_features, self.in_features) * self.scale
        return nn.functional.linear(x, weight)


class Bare(nn.Module):  # type: ignore[misc]
    """Layer without any attribute of a Linear."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.matrix = base.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.T


class QuantizedParameter(nn.Parameter):  # type: ignore[misc]
    """Parameter quantized as by torchao: the module is an ordinary Linear."""


class Rounded(nn.Embedding):  # type: ignore[misc]
    """An embedding that does not give what it stores."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids).round(decimals=1)


def doubled(base: nn.Linear) -> nn.Module:
    module = Doubled(base.in_features, base.out_features, bias=False)
    module.weight = base.weight
    return module


def swap_down(make: Callable[[nn.Linear], nn.Module]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        mlp = model.model.layers[1].mlp
        mlp.down_proj = make(mlp.down_proj)

    return change


def swap_head(model: Any) -> None:
    model.lm_head = doubled(model.lm_head)


def swap_embedding(model: Any) -> None:
    rounded = Rounded(VOCAB, 64)
    rounded.weight = model.model.embed_tokens.weight
    model.model.embed_tokens = rounded


def swap_norm(model: Any) -> None:
    layer = model.model.layers[0]
    norm = nn.LayerNorm(64, bias=False)
    norm.weight = layer.input_layernorm.weight
    layer.input_layernorm = norm


def hook(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, result: 2 * result)


def replace_forward(model: Any) -> None:
    layer = model.model.layers[0].self_attn.o_proj
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)


CHANGES = {
    "a subclass of Linear": swap_down(doubled),
    "a head of a subclass": swap_head,
    "an adapter": swap_down(Adapted),
    "packed weights": swap_down(Packed),
    "no Linear at all": swap_down(Bare),
    "an embedding of a subclass": swap_embedding,
    "another norm": swap_norm,
    "a hook": hook,
    "another forward": replace_forward,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models"), "llama")


@pytest.mark.parametrize("name", CHANGES)
def test_what_computes_something_else_runs_on_the_general_path(folder: Path, name: str) -> None:
    reference = load_reference(folder)
    model, spec = load_model(folder, "float32", torch.device("cpu"))
    for changed in (reference, model):
        torch.manual_seed(0)
        CHANGES[name](changed)
    assert fuse_as_stored(model) is None
    engine = assemble_engine(model, spec, engine_config(), torch.device("cpu"))
    expected = [continue_greedily(reference, prompt, 6) for prompt in PROMPTS]
    assert continuations(engine, PROMPTS, 6, budget=16) == expected


def test_a_parameter_of_a_subclass_is_not_read(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    down = model.model.layers[1].mlp.down_proj
    down.weight = QuantizedParameter(down.weight.detach())
    assert fuse_as_stored(model) is None


def test_a_subclass_of_a_family_of_the_same_name_is_not_plain(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert is_plain(model)
    model.__class__ = type("LlamaForCausalLM", (type(model),), {"__module__": "elsewhere"})
    assert not is_plain(model)
    assert fuse_as_stored(model) is None
