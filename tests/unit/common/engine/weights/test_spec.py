"""Configurations are read as they stand, or refused by name before any weight is read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from common.engine.model_spec import ModelSpec
from common.engine.weights.load import load_model
from common.engine.weights.spec import max_context_tokens, read_spec
from pdserve.errors import SetupError

SHORT, LONG = [1.0] * 4, [2.0] * 4
SHAPE: dict[str, object] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 4096,
}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG}


def save_config(folder: Path, family: str, **changes: object) -> Path:
    AutoConfig.for_model(family, **changes).save_pretrained(folder)
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def read(folder: Path) -> ModelSpec:
    return read_spec(folder, AutoConfig.from_pretrained(folder), "float32")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("inkling_text", {}, "its layer 0 is hybrid_sliding"),
        ("llama", {"attn_temperature_tuning": True}, "layers of llama scale queries by positions"),
        ("deepseek_v4", {}, "its layer 0 is heavily_compressed_attention"),
        ("t5", {}, "t5 is an encoder with a decoder"),
        ("bart", {}, "bart is an encoder with a decoder"),
        ("bloom", {}, "bloom says no context length"),
        ("falcon", {"alibi": True}, "every layer of falcon adds ALiBi biases"),
        ("cpmant", {}, "cpmant says no context length"),
        ("vit", {}, "vit has no vocab_size"),
        ("distilbert", {}, "distilbert is no causal LM"),
        ("llama", {"max_position_embeddings": -1}, "llama says no context length"),
        ("mamba", {"max_position_embeddings": -1}, "mamba says no context length"),
    ],
)
def test_what_cannot_be_served_is_refused_before_its_weights_are_read(
    tmp_path: Path, family: str, changes: dict[str, object], message: str
) -> None:
    folder = save_config(tmp_path, family, **changes)
    with pytest.raises(SetupError, match=message):
        load_model(folder, "float32", torch.device("cpu"))


def test_a_family_that_fails_in_two_bytes_wants_float32(tmp_path: Path) -> None:
    folder = save_config(tmp_path, "xlstm")
    with pytest.raises(SetupError, match="xlstm runs in float32 alone, not in bfloat16"):
        load_model(folder, "bfloat16", torch.device("cpu"))


@pytest.mark.parametrize(
    ("family", "changes", "tokens"),
    [
        ("llama", SHAPE, 4096),
        ("gpt2", {"n_positions": 777}, 777),
        ("mistral", {**SHAPE, "sliding_window": 8}, 4096),
        ("llama", SHAPE | {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 4096),
        ("llama", SHAPE | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, 4096),
        ("phi3", SHAPE | {"original_max_position_embeddings": 64, "rope_parameters": LONGROPE}, 64),
        (
            "llama",
            SHAPE | {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 100}},
            100,
        ),
        ("deepseek_v32", {"index_topk": 1000, "max_position_embeddings": 4096}, 1000),
        (
            "deepseek_v32",
            {
                "index_topk": 1000,
                "max_position_embeddings": 4096,
                "num_hidden_layers": 2,
                "layer_types": ["full_attention", "full_attention"],
            },
            1000,
        ),
        # states have no limit
        ("mamba", {}, 32768),
        ("mamba2", {"max_position_embeddings": 777}, 777),
        ("rwkv", {"context_length": 2048}, 2048),
    ],
)
def test_the_context_is_what_the_configuration_says(
    tmp_path: Path, family: str, changes: dict[str, object], tokens: int
) -> None:
    """A window bounds no context; LongRoPE's second set of factors is not reached."""
    assert read(save_config(tmp_path, family, **changes)).max_context_tokens == tokens


def test_an_answer_ends_where_any_of_the_files_says(tmp_path: Path) -> None:
    folder = save_config(tmp_path, "llama", **SHAPE, vocab_size=100, eos_token_id=3)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 100]}')
    assert read(folder).eos_token_ids == {3, 5}


def test_longrope_of_one_kind_of_layer_bounds_the_context() -> None:
    config = AutoConfig.for_model("gemma3_text", max_position_embeddings=4096)
    config.rope_parameters = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {**LONGROPE, "original_max_position_embeddings": 100},
    }
    assert max_context_tokens(config) == 100


def test_an_old_configuration_with_rope_scaling_is_read_the_same(tmp_path: Path) -> None:
    folder = save_config(tmp_path, "phi3", **SHAPE, original_max_position_embeddings=64)
    fields = json.loads((folder / "config.json").read_text())
    del fields["rope_parameters"]
    scaling = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}
    fields |= {"rope_scaling": scaling, "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps(fields))
    assert read(folder).max_context_tokens == 64


def test_scaling_of_no_known_kind_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = save_config(tmp_path, "llama", **SHAPE)
    fields = json.loads((folder / "config.json").read_text())
    fields["rope_parameters"] = {"rope_type": "magic", "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(SetupError, match="magic"):
        load_model(folder, "float32", torch.device("cpu"))


@pytest.mark.parametrize(
    ("family", "changes", "kv_heads"),
    [
        ("gpt_bigcode", {"n_head": 4}, 1),
        ("gpt_bigcode", {"n_head": 4, "multi_query": False}, 4),
        ("llama", SHAPE | {"num_key_value_heads": 2}, 2),
        ("gpt2", {"n_head": 4}, 4),
    ],
)
def test_kv_heads(tmp_path: Path, family: str, changes: dict[str, object], kv_heads: int) -> None:
    assert read(save_config(tmp_path, family, **changes)).num_kv_heads == kv_heads


def test_an_end_that_the_model_has_no_logit_for_is_left_out(tmp_path: Path) -> None:
    """A kernel would write behind the logits at `min_tokens`."""
    folder = save_config(tmp_path, "llama", **SHAPE, vocab_size=101)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 100, 101]}))
    assert read(folder).eos_token_ids == {2, 5, 100}  # 2 is config.json's
