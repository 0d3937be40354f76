import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers.modeling_gguf_pytorch_utils as gguf_utils
from gguf import GGMLQuantizationType, dequantize, quantize
from safetensors.numpy import load_file
from transformers import AutoTokenizer
from transformers.utils import logging

from common.engine.weights.convert import check_memory, convert_gguf, open_alone
from common.engine.weights.folder import check_folder
from common.engine.weights.progress import NoProgress
from common.machine import Memory
from pdserve.errors import SetupError

MakeGguf = Callable[..., Path]
Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
# Not all: query and key rows are stored in another order.
SAFETENSORS_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
    "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
}


def convert(gguf: Path) -> Path:
    out = gguf.parent / "out"
    convert_gguf(gguf, out, NoProgress())
    return out


def eos_token_ids(folder: Path) -> list[int | list[int]]:
    names = ("config.json", "generation_config.json")
    return [json.loads((folder / name).read_text())["eos_token_id"] for name in names]


def test_the_weights_come_out_as_they_are_in_the_file(gguf: Path, tensors: Tensors) -> None:
    weights = load_file(convert(gguf) / "model.safetensors")
    for stored, name in SAFETENSORS_NAMES.items():
        np.testing.assert_array_equal(weights[name], tensors[stored])


def test_quantized_weights_lose_nothing_more(make_gguf: MakeGguf, tensors: Tensors) -> None:
    weights = load_file(convert(make_gguf(quantize=True)) / "model.safetensors")
    q8 = GGMLQuantizationType.Q8_0
    stored = dequantize(quantize(tensors["blk.0.ffn_gate.weight"], q8), q8)
    np.testing.assert_array_equal(weights["model.layers.0.mlp.gate_proj.weight"], stored)


def test_the_folder_is_whole_and_its_files_have_one_mode(gguf: Path) -> None:
    folder = convert(gguf)
    check_folder(folder)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_both_configurations_carry_the_end_token(gguf: Path) -> None:
    assert eos_token_ids(convert(gguf)) == [2, 2]


def test_the_end_of_turn_is_an_end_token_too(make_gguf: MakeGguf) -> None:
    assert eos_token_ids(convert(make_gguf(end_of_turn=7))) == [[2, 7], [2, 7]]


def test_an_end_of_turn_that_is_the_end_token_is_named_once(make_gguf: MakeGguf) -> None:
    assert eos_token_ids(convert(make_gguf(end_of_turn=2))) == [2, 2]


def test_digits_stand_alone_where_the_vocabulary_was_made_so(gguf: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(convert(gguf))
    assert tokenizer.tokenize("A  12 B") == ["A", "ĠĠ", "1", "2", "Ġ", "B"]


def test_files_beside_the_gguf_file_are_not_read(gguf: Path, tensors: Tensors) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (gguf.parent / name).write_text('{"model_type": "gpt2", "eos_token_id": 99}')
    assert eos_token_ids(convert(gguf)) == [2, 2]


def test_it_prints_nothing_and_leaves_no_setting_changed(
    gguf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), gguf_utils.tqdm)
    convert(gguf)
    assert capfd.readouterr() == ("", "")
    after = (logging.get_verbosity(), logging.is_progress_bar_enabled(), gguf_utils.tqdm)
    assert after == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leave_out": "blk.0.ffn_up.weight"}, r"lacks 1 weights \(model\.layers\.0\.mlp\.up_proj"),
        ({"rope_scaling": "yarn"}, "scales its positions"),
        ({"architecture": "nosuch"}, "cannot convert tiny.gguf: .*nosuch is not supported"),
    ],
)
def test_what_cannot_be_rebuilt_exactly_is_refused(
    make_gguf: MakeGguf, options: dict[str, str], message: str
) -> None:
    gguf = make_gguf(**options)
    with pytest.raises(SetupError, match=message) as caught:
        convert(gguf)
    assert "safetensors folder instead" in caught.value.remedy


def test_noise_after_the_magic_is_no_gguf_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(10_000)
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + noise)
    with pytest.raises(SetupError, match="is cut short or not a GGUF file"):
        convert(tmp_path / "noise.gguf")


def test_a_noisy_count_does_not_hang(gguf: Path) -> None:
    content = bytearray(gguf.read_bytes())
    content[16:24] = (1 << 62).to_bytes(8, "little")
    gguf.write_bytes(content)
    with pytest.raises(SetupError, match="is cut short or not a GGUF file"):
        convert(gguf)


def test_a_model_that_does_not_fit_into_memory_is_refused_with_the_arithmetic(gguf: Path) -> None:
    with open_alone(gguf, gguf.parent) as opened:
        check_memory(opened, "tiny.gguf", Memory(2**30, 2**30))
        with pytest.raises(SetupError) as caught:
            check_memory(opened, "tiny.gguf", Memory(2**30, 2**30 // 20 + 1000))
    assert str(caught.value) == (
        "cannot convert tiny.gguf: its 0.00 billion weights take 0.0 GiB meanwhile, "
        "and 0.0 are available. Free memory, or use a machine with more"
    )
