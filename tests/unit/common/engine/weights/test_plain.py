"""Llamas that are loaded without transformers: the same numbers, and nothing but plain ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.config import EngineConfig, StoredDtype
from common.engine.attention.interface import OWN_NAME, choose_attention
from common.engine.model_spec import ModelSpec
from common.engine.weights.choose import load, read_model_config
from common.engine.weights.llama import LlamaForCausalLM
from common.engine.weights.load import load_model
from common.engine.weights.plain import PlainCheckpoint, find_plain, load_plain
from pdserve.errors import SetupError
from tests.unit.common.engine.tiny_models import engine_config, save_model

CPU = torch.device("cpu")
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
OTHERS: dict[str, dict[str, object]] = {
    "another family": {"model_type": "mistral"},
    "another class": {"architectures": ["LlamaForSequenceClassification"]},
    "no class": {"architectures": None},
    "another activation": {"hidden_act": "gelu"},
    "biases": {"attention_bias": True},
    "scaled angles": {"rope_parameters": LLAMA3},
    "two bases": {"rope_theta": 10000.0},
    "an unknown key": {"layer_multiplier": 2},
    "quantized weights": {"quantization_config": {"quant_method": "gptq"}},
    "more layers than tensors": {"num_hidden_layers": 3},
    "a head beside a tied one": {"tie_word_embeddings": True},
    "another vocabulary": {"vocab_size": 100},
    "no count": {"num_attention_heads": True},
    "heads that do not divide": {"num_key_value_heads": 3},
    "no norm": {"rms_norm_eps": None},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """Copy of the folder, to be changed."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def found_in(folder: Path, **changes: Any) -> PlainCheckpoint | None:
    return find_plain(folder, engine_config(**changes), CPU)


def change(folder: Path, fields: Mapping[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | dict(fields)))


def load_here(folder: Path, dtype: StoredDtype) -> tuple[Any, Any]:
    found = found_in(folder)
    assert found is not None
    return load_plain(found, dtype, lambda spec: spec)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4, "head_dim": 32}]
)
def test_all_numbers_are_those_of_transformers(
    tmp_path: Path, changes: dict[str, object], dtype: StoredDtype
) -> None:
    folder = save_model(tmp_path, "llama", **changes)
    ours, spec = load_here(folder, dtype)
    theirs: Any
    theirs, expected_spec = load_model(folder, dtype, CPU)
    assert spec == expected_spec
    stored, expected = ours.state_dict(), theirs.state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in stored)
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))
    choose_attention(theirs, OWN_NAME)
    ids = torch.arange(1, 41)[None]
    with torch.inference_mode():
        ran, run = ours(input_ids=ids, use_cache=True), theirs(input_ids=ids, use_cache=True)
    assert torch.equal(ran.logits, run.logits)
    for layer, own in zip(ran.past_key_values.layers, run.past_key_values.layers, strict=True):
        assert torch.equal(layer.keys, own.keys)
        assert torch.equal(layer.values, own.values)
    far = torch.tensor([[0, 7, 511, 100_000]])
    tables, expected_tables = (each.model.rotary_emb(ids.float(), far) for each in (ours, theirs))
    assert all(map(torch.equal, tables, expected_tables))


def test_the_names_that_older_files_have_are_known(copied: Path) -> None:
    fields = json.loads((copied / "config.json").read_text())
    theta = fields.pop("rope_parameters")["rope_theta"]
    fields.pop("dtype")
    old = {"rope_theta": theta, "rope_scaling": None, "torch_dtype": "float32"}
    (copied / "config.json").write_text(json.dumps(fields | old))
    _, spec = load_here(copied, "float32")
    assert spec == load_model(copied, "float32", CPU)[1]


@pytest.mark.parametrize("name", OTHERS)
def test_a_configuration_that_says_anything_else_is_left_to_transformers(
    copied: Path, name: str
) -> None:
    assert found_in(copied) is not None
    change(copied, OTHERS[name])
    assert found_in(copied) is None


@pytest.mark.parametrize("name", ["adapter_config.json", "quantize_config.json"])
def test_a_file_that_says_more_of_the_weights_leaves_them_to_transformers(
    copied: Path, name: str
) -> None:
    (copied / name).write_text("{}")
    assert found_in(copied) is None
    with pytest.raises(SetupError, match=name):
        load(copied, EngineConfig(), "float32", CPU, lambda spec: spec)


def test_tensors_that_are_not_exactly_the_models_are_left_to_transformers(copied: Path) -> None:
    file = copied / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    changes = {
        name: tensors[name][:, :-1].contiguous(),
        "more.weight": torch.zeros(1),
        "model.norm.weight": torch.zeros(64, dtype=torch.int8),
    }
    for changed, tensor in changes.items():
        save_file(tensors | {changed: tensor}, file, metadata={"format": "pt"})
        assert found_in(copied) is None
        with pytest.raises(SetupError, match=changed):
            load(copied, EngineConfig(), "float32", CPU, lambda spec: spec)
    file.write_bytes(b"cut short")
    assert found_in(copied) is None


def test_only_the_fused_pass_on_a_cpu_takes_it(folder: Path) -> None:
    assert found_in(folder, fusion="off") is None
    assert find_plain(folder, engine_config(), torch.device("cuda")) is None
    model, _ = load(folder, engine_config(), "float32", CPU, lambda spec: spec)
    assert type(model) is LlamaForCausalLM
    model, _ = load(folder, engine_config(fusion="off"), "float32", CPU, lambda spec: spec)
    assert type(model).__module__.startswith("transformers.")


def test_both_ways_to_the_configuration_name_the_same_class(folder: Path) -> None:
    ours, name = read_model_config(folder, engine_config(), CPU)
    theirs, other = read_model_config(folder, engine_config(fusion="off"), CPU)
    assert name == other
    assert ours.head_dim == theirs.head_dim


def test_what_admission_refuses_is_not_read(folder: Path) -> None:
    def refuse(spec: ModelSpec) -> NoReturn:
        raise SetupError("no room")

    with pytest.raises(SetupError, match="no room"):
        load(folder, engine_config(), "float32", CPU, refuse)
