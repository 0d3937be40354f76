"""GGUF files as people have them: in parts, with divided rotary frequencies, with large vocabularies."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from common.engine.weights.convert import convert_gguf
from common.engine.weights.gguf_reader import QuickReader
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from pdserve.errors import SetupError
from tests.unit.common.engine.weights.tiny_gguf import DIM, Tensors, write_parts

MakeGguf = Callable[..., Path]


def convert(gguf: Path) -> Path:
    out = gguf.parent / "out"
    convert_gguf(gguf, out, NoProgress())
    return out


def test_a_quick_reader_reads_what_gguf_s_own_reads(gguf: Path) -> None:
    quick, own = QuickReader(gguf), GGUFReader(gguf)
    assert list(quick.fields) == list(own.fields)
    for name, field in own.fields.items():
        assert quick.fields[name].contents() == field.contents(), name
        assert quick.fields[name].types == field.types, name
    assert [t.name for t in quick.tensors] == [t.name for t in own.tensors]
    assert all(
        np.array_equal(a.data, b.data) for a, b in zip(quick.tensors, own.tensors, strict=True)
    )


def test_the_files_are_read_once(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[QuickReader] = []
    own = GGUFReader.__init__

    def count(self: GGUFReader, path: Path) -> None:
        assert isinstance(self, QuickReader)
        opened.append(self)
        own(self, path)

    monkeypatch.setattr(GGUFReader, "__init__", count)
    convert(gguf)
    assert len(opened) == 1


def test_any_part_stands_for_the_model(tmp_path: Path, tensors: Tensors) -> None:
    parts = write_parts(tmp_path, tensors, 3)
    assert [part.name for part in parts] == [f"tiny-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    source = resolve_model(str(parts[1]), tmp_path / "cache", NoProgress())
    assert source.name == "tiny"
    weights = load_file(source.path / "model.safetensors")
    np.testing.assert_array_equal(
        weights["model.layers.0.mlp.down_proj.weight"], tensors["blk.0.ffn_down.weight"]
    )
    again = resolve_model(str(parts[0]), tmp_path / "cache", NoProgress())
    assert again == source
    parts[2].unlink()
    with pytest.raises(SetupError, match=r"tiny-00003-of-00003\.gguf is not there") as caught:
        resolve_model(str(parts[0]), tmp_path / "cache", NoProgress())
    assert str(tmp_path) in caught.value.remedy


def test_divided_frequencies_are_honoured_at_every_position(make_gguf: MakeGguf) -> None:
    folder = convert(make_gguf(frequency_divisor=8.0))
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"]["short_factor"] == [1.0, 8.0] * (DIM // 8)
    rotary = AutoModelForCausalLM.from_pretrained(folder).model.rotary_emb
    plain = 1.0 / 10_000 ** (torch.arange(0, DIM // 2, 2) / (DIM // 2))
    expected = plain / torch.tensor([1.0, 8.0] * (DIM // 8))
    for length in (5, 128):
        cos, _ = rotary(torch.zeros(1), torch.arange(length)[None])
        angles = torch.arange(length)[:, None] * expected
        torch.testing.assert_close(cos[0, :, : DIM // 4], angles.cos())
