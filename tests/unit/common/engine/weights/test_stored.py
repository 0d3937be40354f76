"""Files read of a folder are those that `transformers` loads."""

from pathlib import Path

import pytest
import torch

from common.engine.weights.load import load_model
from common.engine.weights.stored import read_tensors, unchanged, weight_files
from pdserve.errors import SetupError
from tests.unit.common.engine.tiny_models import save_model
from tests.unit.common.engine.weights.edited import edit_config, shard


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_model(tmp_path / "llama", "llama")


def test_a_single_file_goes_before_an_index(llama: Path) -> None:
    single = (llama / "model.safetensors").read_bytes()
    shard(llama)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert [path.name for path in weight_files(llama)] == shards
    (llama / "model.safetensors").write_bytes(single)
    assert weight_files(llama) == [llama / "model.safetensors"]


def test_shards_hold_together_what_the_single_file_holds(llama: Path) -> None:
    whole = read_tensors(weight_files(llama))
    shard(llama)
    parts = read_tensors(weight_files(llama))
    assert {n: (t.dtype, t.shape) for n, t in parts.items()} == {
        n: (t.dtype, t.shape) for n, t in whole.items()
    }
    assert (whole["lm_head.weight"].dtype, whole["lm_head.weight"].shape) == ("F32", (101, 64))


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_lists_no_files_is_refused(llama: Path, content: str) -> None:
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors.index.json").write_text(content)
    with pytest.raises(SetupError, match=r"index\.json is not a list of shards"):
        load_model(llama, "float32", torch.device("cpu"))


def test_a_shard_that_is_not_there_is_named(llama: Path) -> None:
    shard(llama)
    (llama / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SetupError, match=r"cannot read .*model-00002-of-00002\.safetensors"):
        load_model(llama, "float32", torch.device("cpu"))


def test_weights_of_another_name_in_the_configuration_are_refused(llama: Path) -> None:
    edit_config(llama, transformers_weights="other.safetensors")
    with pytest.raises(SetupError, match=r"transformers_weights names 'other\.safetensors'"):
        load_model(llama, "float32", torch.device("cpu"))


def test_a_file_that_is_replaced_while_it_is_loaded_is_noticed(llama: Path) -> None:
    path = llama / "model.safetensors"
    with unchanged(llama):
        pass
    during = unchanged(llama)
    during.__enter__()
    copy = path.with_suffix(".new")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)
    with pytest.raises(SetupError, match="changed while they were loaded"):
        during.__exit__(None, None, None)
