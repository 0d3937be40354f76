from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer as FastTokenizer

from common.messages import SamplingParams
from pdserve.errors import InvalidRequestError, Reason
from pdserve.v1 import inference_pb2
from router.intake.bad_words import check_first_token, tokenize_bad_words
from router.intake.job import Limits, parse_request
from router.intake.tokenizer import Tokenizer
from tests.unit.router.tiny_tokenizer import IM_END, VOCAB_SIZE, byte_fallback, write_folder

EOS = frozenset({5})
VOCAB = 8
PLAIN = SamplingParams(0.0, 0, 9)


def load(folder: Path, fast: FastTokenizer | None = None, *, adds_bos: bool = False) -> Tokenizer:
    write_folder(folder, adds_bos=adds_bos)
    if fast is not None:
        fast.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder)


def test_a_word_is_meant_at_the_start_and_after_a_space(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, adds_bos=True)
    words = tokenize_bad_words(["né", " x", "né"], VOCAB_SIZE, tokenizer)
    assert words == tuple(map(tuple, ["né".encode(), " né".encode(), b"x", b" x"]))


def test_a_space_is_a_word_too(tmp_path: Path) -> None:
    assert tokenize_bad_words(["  "], VOCAB_SIZE, load(tmp_path)) == ((32, 32), (32, 32, 32))


def test_of_two_forms_that_are_the_same_tokens_one_stays(tmp_path: Path) -> None:
    """A tokenizer of Llama's style puts a space before a text by itself."""
    tokenizer = load(tmp_path, byte_fallback())
    words = tokenize_bad_words(["the"], VOCAB_SIZE + 99, tokenizer)
    assert words == (tuple(tokenizer.encode_rendered("the")),)


def test_a_special_token_can_be_a_bad_word(tmp_path: Path) -> None:
    words = tokenize_bad_words(["<|im_end|>"], VOCAB_SIZE, load(tmp_path))
    assert words == ((IM_END,), (32, IM_END))


def test_what_the_model_has_no_token_for_cannot_come_anyway(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    assert tokenize_bad_words(["<|im_end|>", "a"], IM_END, tokenizer) == ((97,), (32, 97))


def test_a_word_without_tokens_is_refused(tmp_path: Path) -> None:
    fast = byte_fallback()
    tokenizer = load(tmp_path, fast)
    assert tokenizer.encode_rendered("") == []
    with pytest.raises(InvalidRequestError, match="no token of ''") as caught:
        tokenize_bad_words([""], VOCAB_SIZE, tokenizer)
    assert caught.value.field == "sampling.bad_words"


INVALID = Reason.INVALID_FIELD


@pytest.mark.parametrize(
    ("options", "reason", "field"),
    [
        ({"bad_words": ["x"] * 129}, INVALID, "bad_words"),
        ({"bad_words": ["x", ""]}, INVALID, "bad_words"),
        ({"bad_words": ["x" * 257]}, INVALID, "bad_words"),
        ({"allowed_token_ids": [1] * 1025}, INVALID, "allowed_token_ids"),
        (
            {"allowed_token_ids": [VOCAB_SIZE]},
            Reason.TOKEN_OUT_OF_VOCABULARY,
            "allowed_token_ids",
        ),
        (
            {
                "allowed_token_ids": [120, IM_END, 121],
                "bad_words": ["x"],
                "stop_token_ids": [121],
                "min_tokens": 1,
            },
            INVALID,
            "allowed_token_ids",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_request_is_refused_by_field(
    tmp_path: Path, options: dict[str, object], reason: Reason, field: str
) -> None:
    limits = Limits("tiny", VOCAB_SIZE, 100, 80, frozenset({IM_END}))
    sampling = inference_pb2.SamplingParams(**options)  # type: ignore[arg-type]
    request = inference_pb2.GenerateRequest(text="hello", sampling=sampling)
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(request, limits, load(tmp_path))
    assert (caught.value.reason, caught.value.field) == (reason, f"sampling.{field}")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"allowed_token_ids": (3, 4), "bad_words": ((3,), (4,))}, "allowed_token_ids"),
        (
            {"allowed_token_ids": (3, 5), "stop_token_ids": (3,), "min_tokens": 1},
            "allowed_token_ids",
        ),
        ({"bad_words": tuple((t,) for t in range(VOCAB))}, "bad_words"),
        (
            {"bad_words": ((3,),), "stop_token_ids": (0, 1, 2, 4, 6, 7), "min_tokens": 2},
            "bad_words",
        ),
        ({"stop_token_ids": tuple(range(VOCAB)), "min_tokens": 1}, "min_tokens"),
    ],
    ids=str,
)
def test_what_forbids_every_token_is_refused_by_field(
    options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequestError, match="no token may come first") as caught:
        check_first_token(replace(PLAIN, **options), EOS, VOCAB)  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, f"sampling.{field}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"allowed_token_ids": (3, 4), "bad_words": ((3,), (4, 4))},
        {"allowed_token_ids": (5,), "min_tokens": 1, "ignore_eos": True},
        {"allowed_token_ids": (5,)},
        {"stop_token_ids": tuple(range(VOCAB))},
        {"bad_words": tuple((t,) for t in range(VOCAB - 1))},
        {"bad_words": tuple((t,) for t in range(VOCAB) if t != 5)},
    ],
    ids=str,
)
def test_what_leaves_a_token_passes(options: dict[str, object]) -> None:
    check_first_token(replace(PLAIN, **options), EOS, VOCAB)  # type: ignore[arg-type]
