"""A checkpoint that is not exactly its model's weights is refused in one line that names the tensor."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from structlog.testing import capture_logs
from transformers import AutoModelForCausalLM

from pdserve.errors import SetupError
from tests.unit.common.engine.fused.fusing import fuse_as_stored
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model
from tests.unit.common.engine.weights.edited import (
    Tensors,
    add,
    cut,
    drop,
    edit,
    edit_config,
    shard,
)
from tests.unit.common.engine.weights.loading import load, refusal

FUSED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text")
GENERAL = ("gpt2", "gpt_neox", "gpt_bigcode")
RENAMED = {"embed_out.weight": "lm_head.weight"}  # by transformers, of GPT-NeoX
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_model(tmp_path / "llama", "llama")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("family", [*FUSED, *GENERAL])
def test_a_whole_checkpoint_is_loaded_as_it_is(
    tmp_path: Path, family: str, sharded: bool, tied: bool
) -> None:
    folder = save_model(tmp_path, family, tie_word_embeddings=tied)
    stored = load_file(folder / "model.safetensors")
    if sharded:
        shard(folder)
    model = load(folder)
    loaded = model.state_dict()
    for name, tensor in stored.items():
        assert torch.equal(loaded[RENAMED.get(name, name)], tensor), name
    assert (fuse_as_stored(model) is not None) == (family in FUSED)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", DOWN),
        ("llama", "model.embed_tokens.weight"),
        ("llama", "model.norm.weight"),
        ("qwen2", "model.layers.0.self_attn.k_proj.bias"),
        ("qwen3", "model.layers.1.self_attn.q_norm.weight"),
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight"),
        ("gemma3_text", "model.layers.0.pre_feedforward_layernorm.weight"),
        ("gpt2", "transformer.h.1.mlp.c_proj.bias"),
    ],
)
@pytest.mark.parametrize("sharded", [True, False])
def test_a_missing_tensor_is_named(tmp_path: Path, family: str, name: str, sharded: bool) -> None:
    folder = save_model(tmp_path, family)
    edit(folder, drop(name))
    if sharded:
        shard(folder)
    assert f"lacks the tensor {name}" in str(refusal(folder))


def test_of_many_missing_tensors_the_first_is_named_with_their_number(tmp_path: Path) -> None:
    """Tensors are named in the order of the layers, not of their digits."""
    folder = save_model(tmp_path, "llama", num_hidden_layers=11)
    edit(folder, drop(*(f"model.layers.{layer}.mlp.up_proj.weight" for layer in (10, 2))))
    assert "lacks 2 tensors, first model.layers.2.mlp.up_proj.weight" in str(refusal(folder))


def test_both_of_a_tied_pair_are_missed(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama", tie_word_embeddings=True)
    edit(folder, drop("model.embed_tokens.weight"))
    assert "lacks 2 tensors, first lm_head.weight" in str(refusal(folder))


@pytest.mark.parametrize("keep", ["lm_head.weight", "model.embed_tokens.weight"])
def test_of_a_tied_pair_either_is_enough(tmp_path: Path, keep: str) -> None:
    folder = save_model(tmp_path, "llama", tie_word_embeddings=True)

    def rename(tensors: Tensors) -> None:
        tensors[keep] = tensors.pop("model.embed_tokens.weight")

    expected = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit(folder, rename)
    model = load(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, expected)


def test_a_head_that_is_stored_although_it_is_called_tied_is_used_as_it_is(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama", tie_word_embeddings=True)
    head = torch.randn(101, 64)
    edit(folder, add("lm_head.weight", head))
    model = load(folder)
    assert torch.equal(model.lm_head.weight, head)
    weights = fuse_as_stored(model)
    assert weights is not None
    assert torch.equal(weights.head.weight, head)
    assert not torch.equal(weights.embedding.weight, head)


def test_the_body_of_a_model_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "whole", "llama"))
    model.model.save_pretrained(tmp_path / "body")
    error = refusal(tmp_path / "body")
    assert "lacks the tensor lm_head.weight" in str(error)
    assert "without its head" in error.remedy


def test_the_body_of_a_model_with_a_tied_head_is_the_whole_model(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "whole", "qwen3", tie_word_embeddings=True)
    whole = load(folder)
    whole.model.save_pretrained(tmp_path / "body")
    body = load(tmp_path / "body")
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), body.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", [DOWN, "lm_head.weight"])
def test_a_tensor_of_another_shape_is_named_with_both(llama: Path, name: str) -> None:
    shape = list(load_file(llama / "model.safetensors")[name].shape)
    edit(llama, cut(name))
    found = [shape[0] - 1, shape[1]]
    error = refusal(llama)
    assert f"{name} has the shape {found}, config.json asks for {shape}" in str(error)


def test_a_configuration_of_another_model_is_refused(llama: Path) -> None:
    edit_config(llama, vocab_size=99)
    assert "lm_head.weight has the shape [101, 64]" in str(refusal(llama))


@pytest.mark.parametrize("name", ["score.weight", "v_head.summary.weight", DOWN + "_scale"])
def test_a_tensor_that_nothing_uses_is_named_with_the_way_out(llama: Path, name: str) -> None:
    edit(llama, add(name, torch.ones(1)))
    error = refusal(llama)
    assert f"nothing uses the tensor {name}" in str(error)
    assert "--allow-unused-weights" in error.remedy


def test_a_layer_that_the_configuration_does_not_count_is_unused(llama: Path) -> None:
    edit_config(llama, num_hidden_layers=1)
    assert "nothing uses 9 tensors, first model.layers.1.input_layernorm" in str(refusal(llama))


def test_unused_tensors_may_be_allowed_and_are_logged_once(llama: Path) -> None:
    expected = load(llama).state_dict()
    edit(llama, add("b.weight", torch.ones(1)))
    edit(llama, add("a.weight", torch.ones(1)))
    with capture_logs() as logs:
        loaded = load(llama, allow_unused_weights=True).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    (line,) = [line for line in logs if line["event"] == "weights_unused"]
    assert (line["num_tensors"], line["first"]) == (2, "a.weight")


def test_the_engine_allows_unused_tensors_where_its_settings_do(llama: Path) -> None:
    edit(llama, add("score.weight", torch.ones(1)))
    with pytest.raises(SetupError, match=r"nothing uses the tensor score\.weight"):
        make_engine(llama, engine_config())
    make_engine(llama, engine_config(allow_unused_weights=True))


def test_allowing_unused_tensors_allows_nothing_else(llama: Path) -> None:
    edit(llama, lambda tensors: tensors.update({"other": tensors.pop(DOWN)}))
    message = str(refusal(llama, allow_unused_weights=True))
    assert f"lacks the tensor {DOWN}, and nothing uses the tensor other" in message


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("llama", "model.rotary_emb.cos_cached"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.bias"),
        ("gpt_neox", "gpt_neox.layers.1.attention.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.1.attention.rotary_emb.inv_freq"),
    ],
)
def test_caches_and_masks_of_old_checkpoints_are_no_weights(
    tmp_path: Path, family: str, name: str
) -> None:
    folder = save_model(tmp_path, family)
    edit(folder, add(name, torch.ones(1, 1, 4, 4)))
    load(folder)


def test_the_logs_hold_no_table_of_transformers(
    llama: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(llama, drop(DOWN))
    refusal(llama)
    assert "REPORT" not in caplog.text + "".join(capfd.readouterr())
