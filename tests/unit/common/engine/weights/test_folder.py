"""An answer ends where any of a model's files says, and a file that cannot be read is named."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tokenizers import Tokenizer, models

from common.engine.weights.folder import check_folder, read_eos_token_ids
from pdserve.errors import SetupError
from tests.unit.router.tiny_tokenizer import IM_END, VOCAB_SIZE, byte_level

VOCAB = 100


def write(folder: Path, **files: object) -> Path:
    """Make a folder with these JSON files, named without their suffix."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_every_file_has_a_say(tmp_path: Path) -> None:
    write(
        tmp_path,
        generation_config={"eos_token_id": [1, 2]},
        config={"eos_token_id": 3, "text_config": {"eos_token_id": [4, 2]}},
        tokenizer_config={"eos_token": "<end>"},
        tokenizer={"added_tokens": [{"id": 5, "content": "<end>"}]},
    )
    assert read_eos_token_ids(tmp_path, VOCAB) == {1, 2, 3, 4, 5}


def test_so_have_the_sections_of_a_thinker_and_not_those_of_its_voice(tmp_path: Path) -> None:
    thinker = {"eos_token_id": [7, 1], "text_config": {"eos_token_id": 8}}
    talker = {"eos_token_id": 9, "text_config": {"eos_token_id": 10}}
    config = {"eos_token_id": 3, "thinker_config": thinker, "talker_config": talker}
    write(tmp_path, generation_config={"eos_token_id": 1}, config=config)
    assert read_eos_token_ids(tmp_path, VOCAB) == {1, 3, 7, 8}


@pytest.mark.parametrize("value", [None, [], "absent"])
def test_a_file_that_names_none_does_not_hide_the_others(tmp_path: Path, value: object) -> None:
    generation = {} if value == "absent" else {"eos_token_id": value}
    write(tmp_path, generation_config=generation, config={"eos_token_id": 3, "text_config": None})
    assert read_eos_token_ids(tmp_path, VOCAB) == {3}


def test_without_any_file_nothing_ends_an_answer(tmp_path: Path) -> None:
    assert read_eos_token_ids(tmp_path, VOCAB) == frozenset()


@pytest.mark.parametrize("eos", ["<|im_end|>", {"content": "<|im_end|>", "special": True}])
def test_the_tokenizers_end_is_found_among_its_added_tokens(tmp_path: Path, eos: object) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, tokenizer_config={"eos_token": eos})
    assert read_eos_token_ids(tmp_path, VOCAB_SIZE) == {IM_END}


@pytest.mark.parametrize(
    "model",
    [
        models.BPE(vocab={"a": 0, "b": 1, "</s>": 2}, merges=[]),
        models.WordPiece(vocab={"[UNK]": 0, "b": 1, "</s>": 2}, unk_token="[UNK]"),
        models.Unigram([("<unk>", 0.0), ("b", -1.0), ("</s>", -2.0)], unk_id=0),
    ],
)
def test_or_in_its_models_vocabulary(tmp_path: Path, model: models.Model) -> None:
    tokenizer = Tokenizer(model)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, tokenizer_config={"eos_token": "</s>"})
    assert read_eos_token_ids(tmp_path, VOCAB) == {tokenizer.token_to_id("</s>")} == {2}


def test_ids_that_the_model_cannot_generate_are_left_out_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path, config={"eos_token_id": [-1, 99, 100]}, generation_config={"eos_token_id": 7})
    with capture_logs() as logs:
        assert read_eos_token_ids(tmp_path, VOCAB) == {7, 99}
    (line,) = logs
    assert (line["event"], line["ids"]) == ("eos_outside_vocabulary", [-1, 100])


def test_so_is_a_text_that_is_no_token(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, tokenizer_config={"eos_token": "<none>"}, config={"eos_token_id": 3})
    with capture_logs() as logs:
        assert read_eos_token_ids(tmp_path, VOCAB) == {3}
    (line,) = logs
    assert (line["event"], line["eos_token"]) == ("eos_not_in_tokenizer", "<none>")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("generation_config", {"eos_token_id": "2"}, "eos_token_id is '2'"),
        ("generation_config", {"eos_token_id": [2, 2.5]}, "eos_token_id is "),
        ("config", {"eos_token_id": True}, "eos_token_id is True"),
        ("config", {"text_config": {"eos_token_id": {}}}, r"text_config\.eos_token_id is {}"),
        ("config", {"text_config": [1]}, "text_config must hold keys and values"),
        ("config", {"thinker_config": "x"}, "thinker_config must hold keys and values"),
        (
            "config",
            {"thinker_config": {"text_config": {"eos_token_id": "8"}}},
            r"thinker_config\.text_config\.eos_token_id is '8'",
        ),
        ("config", [], "must hold keys and values"),
        ("tokenizer_config", {"eos_token": 2}, "eos_token is 2"),
    ],
)
def test_what_is_no_token_is_refused_with_its_file_and_key(
    tmp_path: Path, name: str, content: object, words: str
) -> None:
    write(tmp_path, **{name: content})
    with pytest.raises(SetupError, match=words) as refusal:
        read_eos_token_ids(tmp_path, VOCAB)
    assert f"{name}.json" in str(refusal.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_file_that_is_no_json_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SetupError, match=f"{name} cannot be read"):
        read_eos_token_ids(tmp_path, VOCAB)


def test_an_older_tokenizer_is_named_with_the_way_to_convert_it(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")
    with pytest.raises(SetupError, match=r"its tokenizer as merges\.txt, vocab\.json") as caught:
        check_folder(folder)
    assert "AutoTokenizer.from_pretrained" in caught.value.remedy
