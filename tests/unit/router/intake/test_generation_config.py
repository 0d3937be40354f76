"""A model's generation_config.json: what counts of it, where, and what is refused by file and key."""

import json
from pathlib import Path

import pytest

from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2
from router.intake.generation_config import (
    NO_DEFAULTS,
    SamplingDefaults,
    choose_sampling_defaults,
    read_sampling_defaults,
)

MODELS = SamplingDefaults(
    temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, repetition_penalty=1.5, max_tokens=9
)
FILE = {
    "temperature": 0.5,
    "top_k": 7,
    "top_p": 0.25,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "max_new_tokens": 9,
}


def write(folder: Path, content: object) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(content))
    return folder


def test_all_six_values_are_read(tmp_path: Path) -> None:
    assert read_sampling_defaults(write(tmp_path, FILE)) == MODELS


@pytest.mark.parametrize(
    "others",
    [
        {"do_sample": False},
        {"do_sample": True},
        {"max_length": 20, "eos_token_id": 2, "num_beams": 4, "presence_penalty": 1},
        {"temperature": None, "top_k": None},
    ],
)
def test_nothing_else_of_the_file_counts(tmp_path: Path, others: dict[str, object]) -> None:
    assert read_sampling_defaults(write(tmp_path, others)) == NO_DEFAULTS


def test_do_sample_takes_no_temperature_away(tmp_path: Path) -> None:
    """The file's keys count as in vLLM."""
    found = read_sampling_defaults(write(tmp_path, {"do_sample": False, "temperature": 0.5}))
    assert found == SamplingDefaults(temperature=0.5)


def test_a_model_without_the_file_has_no_defaults(tmp_path: Path) -> None:
    assert read_sampling_defaults(tmp_path) == NO_DEFAULTS


def test_a_top_k_of_minus_one_is_all(tmp_path: Path) -> None:
    assert read_sampling_defaults(write(tmp_path, {"top_k": -1})) == SamplingDefaults(top_k=0)


def test_off_does_not_even_open_the_file(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    assert choose_sampling_defaults(tmp_path, "off") == NO_DEFAULTS
    with pytest.raises(SetupError, match=r"generation_config.json cannot be read"):
        choose_sampling_defaults(tmp_path, "auto")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("temperature", -0.1, "-0.1, which is not in [0, 100]"),
        ("temperature", float("nan"), "nan, which is not in"),
        ("temperature", float("inf"), "inf, which is not in"),
        ("temperature", "0.6", "'0.6', not a number in [0, 100]"),
        ("temperature", True, "True, not a number"),
        ("top_k", -2, "-2, which is not in"),
        ("top_k", 20.0, "20.0, not an integer"),
        ("top_k", 2**31, "2147483648, which is not in"),
        ("top_p", 0, "0, which is not in (0, 1]"),
        ("top_p", 1e-60, "1e-60, which is not in"),  # 0 in the precision of a message
        ("top_p", 1.5, "1.5, which is not in"),
        ("min_p", [], "[], not a number"),
        ("min_p", 1.01, "1.01, which is not in"),
        ("repetition_penalty", 0, "0, which is not in"),
        ("max_new_tokens", 0, "0, which is not in [1, "),
    ],
)
def test_a_value_that_no_client_may_send_is_refused_by_file_and_key(
    tmp_path: Path, key: str, value: object, words: str
) -> None:
    with pytest.raises(SetupError) as refusal:
        read_sampling_defaults(write(tmp_path, {key: value}))
    message = str(refusal.value)
    assert f"{tmp_path / 'generation_config.json'}: {key} is {words}" in message
    assert "router.generation_config: off" in message


def filled(**asked: object) -> inference_pb2.SamplingParams:
    message = inference_pb2.SamplingParams(**asked)  # type: ignore[arg-type]  # names of fields
    found = MODELS.fill(message)
    assert message == inference_pb2.SamplingParams(**asked)  # type: ignore[arg-type]
    return found


def test_a_silent_request_gets_them_but_for_max_tokens_which_depends_on_the_room() -> None:
    expected = MODELS.to_pb()
    expected.ClearField("max_tokens")
    assert filled() == expected


@pytest.mark.parametrize(
    "said",
    [
        {"temperature": 0.0},
        {"top_k": 3},
        {"top_p": 1.0},
        {"min_p": 0.5},
        {"repetition_penalty": 1.0},
    ],
)
def test_what_a_client_says_wins(said: dict[str, float]) -> None:
    found = filled(**said)
    (name,) = said
    assert getattr(found, name) == said[name]
    found.ClearField(name)  # type: ignore[arg-type]  # a field's name
    expected = filled()
    expected.ClearField(name)  # type: ignore[arg-type]
    assert found == expected


def test_a_zero_that_cannot_be_told_from_silence_is_said_by_its_own_field() -> None:
    found = filled(no_top_k=True, no_min_p=True)
    assert (found.top_k, found.min_p) == (0, 0.0)
    assert found.temperature == 0.5


def test_what_else_a_client_says_stays(tmp_path: Path) -> None:
    found = filled(seed=0, stop=["x"], logit_bias={3: 1.0}, n=2)
    assert found.HasField("seed")
    assert (found.seed, list(found.stop), dict(found.logit_bias), found.n) == (0, ["x"], {3: 1}, 2)
