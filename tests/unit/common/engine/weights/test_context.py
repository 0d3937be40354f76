"""The context that a deployment serves: at most the model's, with one set of LongRoPE's factors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from common.auto_setting import Auto
from common.engine.model_spec import ModelSpec
from common.engine.weights.context import use_context, within
from common.engine.weights.load import load_model
from common.engine.weights.spec import max_context_tokens
from pdserve.errors import SetupError
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model

ORIGINAL, MODEL = 64, 256
SHORT, LONG = [1.0] * 4, [2.0] * 4
ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG}


def longrope() -> Any:
    return AutoConfig.for_model(
        "phi3",
        hidden_size=32,
        num_attention_heads=4,
        max_position_embeddings=MODEL,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters=dict(ROPE),
    )


@pytest.mark.parametrize(
    ("wanted", "limit", "mark"),
    [
        ("auto", ORIGINAL, ""),
        (10, ORIGINAL, ""),
        (ORIGINAL, ORIGINAL, ""),
        (ORIGINAL + 1, MODEL, "-long"),
        (MODEL, MODEL, "-long"),
    ],
)
def test_longrope_has_its_long_factors_beyond_the_original_length(
    wanted: int | Auto, limit: int, mark: str
) -> None:
    config = longrope()
    assert use_context(config, wanted) == mark
    assert max_context_tokens(config) == limit
    assert config.rope_parameters["short_factor"] == (LONG if mark else SHORT)


def test_a_model_that_names_no_limit_gets_the_one_that_is_set() -> None:
    config = AutoConfig.for_model("mamba")
    assert use_context(config, 100_000) == ""
    assert max_context_tokens(config) == 100_000


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def test_the_context_is_made_shorter(llama: Path) -> None:
    assert within(spec_of(llama), 100).max_context_tokens == 100
    assert within(spec_of(llama), "auto").max_context_tokens == 512


def test_more_than_the_model_has_is_refused_before_its_weights_are_read(llama: Path) -> None:
    message = "engine.max_context_tokens 513 exceeds the 512 of the model"
    with pytest.raises(SetupError, match=message):
        make_engine(llama, engine_config(max_context_tokens=513))


def test_keys_by_other_factors_are_those_of_another_model(tmp_path: Path) -> None:
    fields = {"rope_parameters": dict(ROPE), "original_max_position_embeddings": ORIGINAL}
    folder = save_model(tmp_path, "phi3", **fields)
    short, long = spec_of(folder, ORIGINAL), spec_of(folder, ORIGINAL + 1)
    assert long.fingerprint == f"{short.fingerprint}-long"


def spec_of(folder: Path, context: int = 16) -> ModelSpec:
    cpu = torch.device("cpu")
    return load_model(folder, "float32", cpu, context_tokens=context)[1]
