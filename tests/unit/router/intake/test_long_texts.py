"""Texts that are certainly too long, against a tokenizer that must not be asked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pdserve.errors import InvalidRequestError, Reason
from pdserve.v1 import inference_pb2
from router.intake.job import Limits, parse_request
from router.intake.tokenizer import Tokenizer
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

Request = inference_pb2.GenerateRequest
LIMITS = Limits("tiny", VOCAB_SIZE, max_context_tokens=100, kv_capacity_tokens=80)


class Unasked(Tokenizer):
    """Tokenizes nothing."""

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        raise AssertionError(f"{len(text)} characters were to be tokenized")


def chat(text: str) -> Request:
    request = Request()
    request.chat.messages.add(role="user", content=text)
    return request


@pytest.mark.parametrize("make", [lambda text: Request(text=text), lambda text: chat(text)])
def test_a_text_that_is_certainly_too_long_is_not_tokenized(
    tmp_path: Path, make: Callable[[str], Request]
) -> None:
    """No token is longer than <|im_start|>, 12 bytes."""
    unasked = Unasked(write_folder(tmp_path))
    with pytest.raises(
        InvalidRequestError, match=r"prompt of at least \d+ \+ max_tokens 1 exc"
    ) as caught:
        parse_request(make("x" * 1200), LIMITS, unasked)
    assert (caught.value.reason, caught.value.field) == (
        Reason.CONTEXT_EXCEEDED,
        "sampling.max_tokens",
    )
    with pytest.raises(AssertionError, match="to be tokenized"):
        parse_request(make("x" * 600), LIMITS, unasked)
