"""Every family of the fusion pass gives `transformers`' tokens; it leaves unknown models alone."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.engine.build import Engine
from tests.unit.common.engine.fused.fusing import fuse_as_stored
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
    poison,
    save_model,
)

PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (20, 3, 37)]
FUSED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text")
NEW_TOKENS = 6


@pytest.fixture(scope="module", params=FUSED)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models"), request.param)


def test_the_family_is_fused(folder: Path) -> None:
    assert fuse_as_stored(AutoModelForCausalLM.from_pretrained(folder)) is not None


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    reference = load_reference(folder)
    return [continue_greedily(reference, prompt, NEW_TOKENS) for prompt in PROMPTS]


@pytest.fixture(scope="module", params=["auto", "off"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Engine:
    return make_engine(folder, engine_config(fusion=request.param))


@pytest.mark.parametrize("budget", [5, 16, 100])
def test_mixed_batches_give_transformers_tokens(
    engine: Engine, expected: list[list[int]], budget: int
) -> None:
    poison(engine)
    assert continuations(engine, PROMPTS, NEW_TOKENS, budget) == expected


def test_a_parameter_of_no_known_use_leaves_the_model_to_the_general_path(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path, "llama"))
    model.model.layers[1].self_attn.lora = torch.nn.Linear(64, 64)
    assert fuse_as_stored(model) is None


def test_another_activation_leaves_the_model_to_the_general_path(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama", hidden_act="relu")
    assert fuse_as_stored(AutoModelForCausalLM.from_pretrained(folder)) is None


def test_a_family_that_is_not_known_is_left_to_the_general_path(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path, "gpt2"))
    assert fuse_as_stored(model) is None
