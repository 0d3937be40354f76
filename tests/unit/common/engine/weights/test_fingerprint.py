import re
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from common.engine.weights.fingerprint import fingerprint
from pdserve.errors import SetupError

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


@pytest.mark.parametrize("position", [0, WEIGHTS - 1])
def test_it_sees_the_first_and_the_last_weight(folder: Path, position: int) -> None:
    before = fingerprint(folder)
    values = np.zeros(WEIGHTS, np.float32)
    values[position] = 1
    save(folder, values)
    assert fingerprint(folder) != before


def test_it_reads_a_small_file_whole(folder: Path) -> None:
    seen = set()
    for position in range(0, 100_000, 10_000):
        values = np.zeros(100_000, np.float32)
        values[position] = 1
        save(folder, values)
        seen.add(fingerprint(folder))
    assert len(seen) == 10


def test_it_differs_for_another_configuration_and_another_file_name(folder: Path) -> None:
    seen = {fingerprint(folder)}
    (folder / "config.json").write_text("{}")
    seen.add(fingerprint(folder))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    seen.add(fingerprint(folder))
    assert len(seen) == 3


def test_it_ignores_files_that_hold_no_weights(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "README.md").write_text("hello")
    assert fingerprint(folder) == before


def test_it_reads_little_whatever_the_size(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        header = b'{"w":{"dtype":"U8","shape":[8589934592],"data_offsets":[0,8589934592]}}'
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 8_589_934_592)
    before = psutil.Process().io_counters().read_chars
    fingerprint(folder)
    assert psutil.Process().io_counters().read_chars - before < 16 * 2**20


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


def test_a_folder_without_weights_or_configuration_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(SetupError, match=r"holds no \*\.safetensors"):
        fingerprint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(SetupError, match=r"config\.json"):
        fingerprint(folder)
