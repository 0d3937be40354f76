from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.engine.weights.size import loading_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A thousand numbers in bfloat16 and ten in float32."""
    save_file({"a": torch.zeros(10, 100, dtype=torch.bfloat16)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(10)}, tmp_path / "2.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("dtype", "num_bytes"),
    [
        ("bfloat16", 2 * (1000 + 2 * 10)),  # what is converted is held twice
        ("float32", 4 * (2 * 1000 + 10)),
        ("float16", 2 * (2 * 1000 + 2 * 10)),
    ],
)
def test_converted_weights_count_twice(folder: Path, dtype: str, num_bytes: int) -> None:
    assert loading_bytes(folder, dtype) == num_bytes


def test_files_that_cannot_be_read_count_nothing(folder: Path) -> None:
    (folder / "1.safetensors").write_bytes(b"\xff" * 100)
    (folder / "2.safetensors").write_bytes(b"")
    (folder / "3.safetensors").symlink_to(folder / "nowhere")
    assert loading_bytes(folder, "float32") == 0
