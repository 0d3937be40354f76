"""Choices of `engine.dtype: auto`, and the reason that each states."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file

from common.config import Dtype, EngineConfig, StoredDtype
from common.engine.cpu import target
from common.engine.cpu.target import Level, Target
from common.engine.dtype import ChosenDtype, choose_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MIB = 2**20


def config(dtype: Dtype = "auto") -> EngineConfig:
    return EngineConfig(dtype=dtype, kv_cache_gib=0.5)


def on(monkeypatch: pytest.MonkeyPatch, level: Level) -> None:
    monkeypatch.setattr(target, "host_target", lambda: Target("a-cpu", level))


def folder_of(path: Path, numbers: int, **config: object) -> Path:
    """Make a model's folder whose weights are so many numbers, in two files."""
    (path / "config.json").write_text(json.dumps(config))
    half = torch.zeros(numbers // 2, dtype=torch.float16)
    save_file({"a": half, "scalar": torch.zeros(())}, path / "model-1.safetensors")
    save_file({"b": half.reshape(2, -1)}, path / "model-2.safetensors")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return path


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_asked_for_is_taken_without_a_look(asked: Dtype, device: torch.device) -> None:
    assert choose_dtype(config(asked), Path("nowhere"), device) == ChosenDtype(
        cast(StoredDtype, asked), "engine.dtype"
    )


@pytest.mark.parametrize("level", ["avx512-bf16", "avx512", "avx2", "neon"])
def test_a_cpu_with_kernels_takes_bfloat16(
    level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, level)
    chosen = choose_dtype(config(), folder_of(tmp_path, 1000, dtype="float32"), CPU)
    assert chosen.dtype == "bfloat16"
    assert chosen.reason == f"the fastest all in all on {level}"


def test_a_cpu_without_kernels_takes_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, "baseline")
    chosen = choose_dtype(config(), folder_of(tmp_path, 1000, dtype="bfloat16"), CPU)
    assert chosen == ChosenDtype("float32", "the fastest on baseline")


@pytest.mark.parametrize(("numbers", "dtype"), [(9 * MIB, "float32"), (40 * MIB, "bfloat16")])
def test_float32_is_left_where_it_leaves_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: int, dtype: str
) -> None:
    """Weights of 16 bits count 1.4 times as they are widened: 50 and 224 MiB, beside 0.5 GiB of KV."""
    on(monkeypatch, "baseline")
    chosen = choose_dtype(config(), folder_of(tmp_path, numbers), CPU, share_bytes=1024 * MIB)
    assert chosen.dtype == dtype
    assert ("needs 1.0 GiB" in chosen.reason) == (dtype == "bfloat16")


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\xff" * 6 + b"\0\0{}", b"\2" + bytes(7) + b"{}", bytes(16)]
)
def test_a_damaged_file_does_not_matter_here_and_loading_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    on(monkeypatch, "baseline")
    folder_of(tmp_path, 1000)
    (tmp_path / "model-2.safetensors").write_bytes(content)
    assert choose_dtype(config(), tmp_path, CPU).dtype == "float32"


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"dtype": "float16"}, ChosenDtype("float16", "the checkpoint's")),
        ({"torch_dtype": "float32"}, ChosenDtype("float32", "the checkpoint's")),
        (
            {"dtype": "bfloat16", "torch_dtype": "float32"},
            ChosenDtype("bfloat16", "the checkpoint's"),
        ),
        ({"text_config": {"dtype": "float16"}}, ChosenDtype("float16", "the checkpoint's")),
        ({}, ChosenDtype("bfloat16", "the checkpoint names no dtype that can be served")),
        (
            {"dtype": "float8_e4m3fn", "text_config": None},
            ChosenDtype("bfloat16", "the checkpoint names no dtype that can be served"),
        ),
    ],
)
def test_cuda_takes_the_checkpoints(
    tmp_path: Path, stated: dict[str, object], expected: ChosenDtype
) -> None:
    assert choose_dtype(config(), folder_of(tmp_path, 1000, **stated), CUDA) == expected
