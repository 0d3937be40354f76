import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.engine.weights.fingerprint import fingerprint
from pdserve.errors import SetupError
from tests.unit.common.engine.tiny_models import save_model
from tests.unit.common.engine.weights.edited import shard

WEIGHTS = 2 << 20


def save(folder: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    save_file({"weight": values}, folder / "model.safetensors")


def test_it_is_32_hex_digits_and_the_same_for_a_copy_elsewhere(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert re.fullmatch(r"[0-9a-f]{32}", fingerprint(folder))
    assert fingerprint(tmp_path / "copy") == fingerprint(folder)


def test_it_differs_for_other_weights_of_the_same_shape(folder: Path) -> None:
    before = fingerprint(folder)
    save(folder, np.full(WEIGHTS, 1e-6, np.float32))
    assert fingerprint(folder) != before


def flip(path: Path, offset: int) -> None:
    """Change one bit of one byte, in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("share", [0.0, 0.123, 0.5, 0.98765, 1.0])
def test_it_sees_one_bit_of_one_byte_of_the_weights(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    before, size = fingerprint(folder), path.stat().st_size
    first = size - 4 * WEIGHTS
    offset = first + int(share * (size - 1 - first))
    flip(path, offset)
    changed = fingerprint(folder)
    flip(path, offset)
    assert (changed != before, fingerprint(folder)) == (True, before)


@pytest.mark.parametrize("number", [1, 2])
def test_it_sees_one_byte_of_any_shard(tmp_path: Path, number: int) -> None:
    folder = save_model(tmp_path, "llama")
    shard(folder)
    before = fingerprint(folder)
    path = folder / f"model-{number:05}-of-00002.safetensors"
    flip(path, path.stat().st_size // 2)
    assert fingerprint(folder) != before


def test_it_differs_for_another_configuration(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "config.json").write_text("{}")
    assert fingerprint(folder) != before


def test_it_differs_for_weights_that_are_loaded_under_other_names(folder: Path) -> None:
    """Names tell two tensors of one shape apart."""
    ones, twos = np.ones(8, np.float32), np.full(8, 2, np.float32)
    save_file({"a": ones, "b": twos}, folder / "model.safetensors")
    before = fingerprint(folder)
    save_file({"b": ones, "a": twos}, folder / "model.safetensors")
    assert fingerprint(folder) != before


@pytest.mark.parametrize("name", ["README.md", "other.safetensors", "model-00001.safetensors"])
def test_it_ignores_files_that_are_not_loaded(folder: Path, name: str) -> None:
    before = fingerprint(folder)
    (folder / name).write_bytes(b"no safetensors at all")
    assert fingerprint(folder) == before


def test_it_ignores_shards_beside_a_single_file_and_a_stray_file_beside_shards(
    tmp_path: Path,
) -> None:
    folder = save_model(tmp_path, "llama")
    single = (folder / "model.safetensors").read_bytes()
    before = fingerprint(folder)
    shard(folder)
    sharded = fingerprint(folder)
    (folder / "consolidated.safetensors").write_bytes(single)
    assert fingerprint(folder) == sharded
    (folder / "model.safetensors").write_bytes(single)
    assert fingerprint(folder) == before


@pytest.mark.parametrize("content", [b"", b"1234", b"version https://git-lfs", b"\x02" + b"\0" * 7])
def test_a_file_that_is_no_safetensors_is_named(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(SetupError, match=r"model\.safetensors is cut short"):
        fingerprint(folder)


def test_a_file_that_is_cut_short_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SetupError, match=r"model\.safetensors is cut short"):
        fingerprint(folder)


@pytest.mark.parametrize(
    "header", [b"[]", b'{"w": {}}', b'{"w": {"dtype": 1, "shape": [], "data_offsets": [0, 0]}}']
)
def test_a_header_that_describes_no_tensors_is_refused(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(SetupError, match=r"model\.safetensors is cut short or not"):
        fingerprint(folder)


def test_a_folder_without_weights_or_configuration_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(SetupError, match=r"holds neither model\.safetensors nor"):
        fingerprint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(SetupError, match=r"config\.json"):
        fingerprint(folder)
