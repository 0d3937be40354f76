import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.engine.weights.size import full_bytes, loading_bytes, told_rate, weights_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A thousand numbers in bfloat16 and ten in float32."""
    save_file({"a": torch.zeros(10, 100, dtype=torch.bfloat16)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(10)}, tmp_path / "2.safetensors")
    shards = {"a": "1.safetensors", "b": "2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("dtype", "num_bytes"),
    [
        ("bfloat16", 2 * (1000 + 14)),
        ("float32", 4 * (1400 + 10)),
        ("float16", 2 * (1400 + 14)),
    ],
)
def test_converted_weights_count_more_than_a_build_was_measured_to_take(
    folder: Path, dtype: str, num_bytes: int
) -> None:
    assert loading_bytes(folder, dtype) == num_bytes


def test_files_that_cannot_be_read_count_nothing(folder: Path) -> None:
    (folder / "1.safetensors").write_bytes(b"\xff" * 100)
    (folder / "2.safetensors").write_bytes(b"")
    assert loading_bytes(folder, "float32") == 0


def test_files_that_are_not_loaded_count_nothing(folder: Path) -> None:
    save_file({"a": torch.zeros(10)}, folder / "consolidated.safetensors")
    assert weights_bytes(folder, "float32") == 4 * 1010
    (folder / "model.safetensors.index.json").unlink()
    assert weights_bytes(folder, "float32") == 0


def test_parts_that_make_sound_of_what_a_thinker_writes_count_nothing(folder: Path) -> None:
    names = ("thinker.a", "talker.b", "token2wav.c", "code2wav.d")
    save_file({name: torch.zeros(10) for name in names}, folder / "1.safetensors")
    sizes = (weights_bytes, loading_bytes, full_bytes)
    assert {count(folder, "float32") for count in sizes[:2]} == {4 * 50}
    every = full_bytes(folder, "float32")
    (folder / "config.json").write_text('{"thinker_config": {}}')
    assert {count(folder, "float32") for count in sizes[:2]} == {4 * 20}
    assert full_bytes(folder, "float32") == every * 2 // 5


def test_weights_alone_count_once(folder: Path) -> None:
    assert weights_bytes(folder, "bfloat16") == 2 * 1010
    assert weights_bytes(folder, "float32") == 4 * 1010


def test_a_rate_is_told_with_the_bytes() -> None:
    assert told_rate(1_500_000_000, 2.0) == "1.50 GB at 0.75 GB/s"
    assert told_rate(0, 0.0) == "0.00 GB at 0.00 GB/s"
