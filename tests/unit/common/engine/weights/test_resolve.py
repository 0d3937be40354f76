import json
from pathlib import Path

import pytest

from common.engine.weights.cache import entry_name
from common.engine.weights.catalog import CATALOG
from common.engine.weights.folder import check_folder
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import ModelSource, resolve_model
from pdserve.errors import SetupError


def resolve(model: str | Path, cache_dir: Path) -> ModelSource:
    return resolve_model(str(model), cache_dir, NoProgress())


def test_a_folder_is_used_as_it_is_under_its_own_name(folder: Path, tmp_path: Path) -> None:
    assert resolve(folder, tmp_path) == ModelSource("my-model", folder)


def test_a_relative_folder_becomes_absolute(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert resolve(".", tmp_path) == ModelSource("my-model", folder)
    monkeypatch.chdir(folder.parent)
    assert resolve("my-model", tmp_path) == ModelSource("my-model", folder)


def test_a_link_gives_its_own_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prod").symlink_to(folder)
    assert resolve(tmp_path / "prod", tmp_path).name == "prod"


def test_an_alias_that_is_pulled_is_a_look_into_the_cache(folder: Path, tmp_path: Path) -> None:
    ready = tmp_path / entry_name(CATALOG["smollm2-135m"].sha256)
    folder.rename(ready)
    assert resolve("smollm2-135m", tmp_path) == ModelSource("smollm2-135m", ready)


def test_a_gguf_file_is_converted_once_whatever_it_is_called(gguf: Path, tmp_path: Path) -> None:
    source = resolve(gguf, tmp_path / "cache")
    assert source.name == "tiny"
    check_folder(source.path)
    inode = source.path.stat().st_ino
    renamed = resolve(gguf.rename(tmp_path / "other.gguf"), tmp_path / "cache")
    assert renamed == ModelSource("other", source.path)
    assert renamed.path.stat().st_ino == inode


def test_a_hub_id_is_fetched_and_checked(folder: Path, tmp_path: Path) -> None:
    source = resolve_model(
        "org/name", tmp_path, NoProgress(), fetch=lambda repo_id, progress: folder
    )
    assert source == ModelSource("org/name", folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SetupError, match=r"lacks tokenizer\.json"):
        resolve_model("org/name", tmp_path, NoProgress(), fetch=lambda repo_id, progress: folder)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/no/where", "no such folder: /no/where"),
        ("./where", "no such folder"),
        ("~nobody-of-that-name/where", "no such folder"),
        ("a/b/c", "no such folder"),
        ("model.gguf", "no such file: model.gguf"),
        ("/" + "x" * 5000, "no such folder"),
    ],
)
def test_a_path_that_is_not_there_is_called_so(tmp_path: Path, model: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        resolve(model, tmp_path)


@pytest.mark.parametrize("model", ["smolm2-135m", "SmolLM2-135M", "smolm"])
def test_a_near_miss_is_answered_with_the_alias(tmp_path: Path, model: str) -> None:
    with pytest.raises(SetupError, match=r"Did you mean smollm2-135m\?"):
        resolve(model, tmp_path)


@pytest.mark.parametrize("model", ["", "gpt-nine", "a b"])
def test_anything_else_is_answered_with_what_a_model_can_be(tmp_path: Path, model: str) -> None:
    with pytest.raises(SetupError, match=r"Known: smollm2-135m\. A model is an alias"):
        resolve(model, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(
    folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / name).unlink()
    with pytest.raises(SetupError, match=f"it lacks {name}"):
        resolve(folder, tmp_path)


def test_an_empty_folder_is_told_all_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"lacks \*\.safetensors, config\.json, tokenizer\.json"):
        resolve(tmp_path, tmp_path)


def test_a_folder_that_lacks_a_shard_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    shards = {"a": "model.safetensors", "b": "model-2.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(SetupError, match=r"it lacks model-2\.safetensors"):
        resolve(folder, tmp_path)
    index.write_text("[]")
    with pytest.raises(SetupError, match="is not a list of shards"):
        resolve(folder, tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_folder_of_pickles_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(SetupError, match=f"refused, since {name} is a pickle"):
        resolve(folder, tmp_path)
    with pytest.raises(SetupError, match=f"refused, since {name} is a pickle"):
        resolve(folder / name, tmp_path)


def test_pickles_beside_safetensors_do_no_harm(folder: Path, tmp_path: Path) -> None:
    (folder / "training_args.bin").touch()
    assert resolve(folder, tmp_path).path == folder


def test_a_folder_with_only_a_gguf_file_points_to_it(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"Give the file itself: .*tiny\.gguf"):
        resolve(gguf.parent, tmp_path / "cache")


def test_one_safetensors_file_points_to_its_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"Give its folder: .*my-model"):
        resolve(folder / "model.safetensors", tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 20, 400, -1])
def test_a_gguf_file_cut_short_is_one_line_and_leaves_nothing(
    gguf: Path, tmp_path: Path, kept: int
) -> None:
    gguf.write_bytes(gguf.read_bytes()[:kept])
    with pytest.raises(SetupError, match="is cut short or not a GGUF file") as caught:
        resolve(gguf, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_another_kind_of_file_is_no_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SetupError, match="is cut short or not a GGUF file"):
        resolve(tmp_path / "notes.txt", tmp_path / "cache")
