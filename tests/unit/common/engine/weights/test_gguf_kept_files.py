"""Files around a GGUF model that is kept: what is written, links that follow it, and what is not kept."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from common.engine.weights.gguf_index import INDEX_FILE, is_kept, read_index
from common.engine.weights.load import load_model
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import ModelSource, resolve_model
from pdserve.errors import SetupError
from tests.unit.common.engine.weights.quantized_gguf import QuantizedGguf, write_quantized
from tests.unit.common.engine.weights.tiny_gguf import GgufOptions, random_tensors, write_gguf

CPU = torch.device("cpu")


def kept(gguf: Path, cache: Path) -> ModelSource:
    return resolve_model(str(gguf), cache, NoProgress(), keep_quantized=True)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_quantized(tmp_path / "tiny.gguf", QuantizedGguf(kind="Q4_0"))


def test_the_folder_has_all_but_the_weights(gguf: Path, tmp_path: Path) -> None:
    folder = kept(gguf, tmp_path / "cache").path
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", INDEX_FILE} <= names
    assert not any(name.endswith(".safetensors") for name in names)
    assert (folder / "part-1.gguf").readlink() == gguf.resolve()
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["eos_token_id"] == 2


def test_configuration_and_tokenizer_are_those_of_the_converted_model(
    gguf: Path, tmp_path: Path
) -> None:
    full = resolve_model(str(gguf), tmp_path / "cache", NoProgress()).path
    folder = kept(gguf, tmp_path / "cache").path
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert json.loads((folder / name).read_text()) == json.loads((full / name).read_text())


def test_the_links_follow_a_file_that_moves(gguf: Path, tmp_path: Path) -> None:
    folder = kept(gguf, tmp_path / "cache").path
    moved = gguf.rename(tmp_path / "moved.gguf")
    with pytest.raises(SetupError, match=r"cannot read .*part-1\.gguf"):
        load_model(folder, "float32", CPU)
    again = kept(moved, tmp_path / "cache")
    assert again == ModelSource("moved", folder)
    assert (folder / "part-1.gguf").readlink() == moved.resolve()
    load_model(folder, "float32", CPU)


def test_a_file_of_another_shape_than_its_index_is_refused(gguf: Path, tmp_path: Path) -> None:
    folder = kept(gguf, tmp_path / "cache").path
    content = gguf.read_bytes()
    gguf.write_bytes(content[: len(content) // 2])
    with pytest.raises(SetupError, match="is cut short"):
        load_model(folder, "float32", CPU)
    (folder / INDEX_FILE).write_text("[]")
    with pytest.raises(SetupError, match=f"{INDEX_FILE} is damaged"):
        load_model(folder, "float32", CPU)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (QuantizedGguf(kinds={"ffn_down.weight": "TQ1_0"}), "blk.0.ffn_down.weight is TQ1_0"),
        (
            QuantizedGguf(kinds={"attn_v.weight": "F16"}),
            "q_proj and k_proj and v_proj of a layer are quantized only in part",
        ),
    ],
)
def test_a_file_that_cannot_be_kept_is_dequantized_and_says_why(
    tmp_path: Path, model: QuantizedGguf, reason: str
) -> None:
    gguf = write_quantized(tmp_path / "tiny.gguf", model)
    source = kept(gguf, tmp_path / "cache")
    assert source.remark == f"tiny.gguf is served dequantized: {reason}"
    assert not is_kept(source.path)
    with safe_open(source.path / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("model.layers.0.mlp.down_proj.weight").dtype == torch.float32


def test_full_weights_are_converted_without_a_word(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", random_tensors(), GgufOptions())
    source = kept(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert not source.remark
    assert not is_kept(source.path)


def test_a_file_without_one_of_its_weights_is_refused(tmp_path: Path) -> None:
    options = GgufOptions(leave_out="blk.0.ffn_up.weight", quantize=True)
    write_gguf(tmp_path / "tiny.gguf", random_tensors(), options)
    with pytest.raises(SetupError, match=r"lacks 1 weights \(model\.layers\.0\.mlp\.up_proj"):
        kept(tmp_path / "tiny.gguf", tmp_path / "cache")


def test_the_index_is_read_as_it_was_written(gguf: Path, tmp_path: Path) -> None:
    index = read_index(kept(gguf, tmp_path / "cache").path)
    query = index.tensors["model.layers.1.self_attn.q_proj.weight"]
    assert (index.form, index.num_parts, query.kind) == ("q4_0", 1, "Q4_0")
    assert (query.shape, query.num_heads) == ((256, 256), 8)
