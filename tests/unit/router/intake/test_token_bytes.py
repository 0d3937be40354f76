import json

from hypothesis import given
from hypothesis import strategies as st

from router.intake.token_bytes import find_token_bytes
from tests.unit.router.tiny_tokenizer import IM_START, byte_fallback, byte_level

TOKENIZERS = [byte_level(), byte_fallback()]
DECODERS = [json.loads(tokenizer.to_str())["decoder"] for tokenizer in TOKENIZERS]


@given(st.text(max_size=20))
def test_the_tokens_of_a_text_have_its_bytes(text: str) -> None:
    for tokenizer, decoder in zip(TOKENIZERS, DECODERS, strict=True):
        to_bytes = find_token_bytes(decoder)
        pieces = tokenizer.encode(text, add_special_tokens=False).tokens
        found = b"".join(map(to_bytes, pieces))
        assert found in (
            text.encode(),
            b" " + text.encode(),
        )  # SentencePiece may begin with a space


def test_an_added_token_stands_for_itself() -> None:
    name = byte_level().id_to_token(IM_START)
    assert name is not None
    assert find_token_bytes(DECODERS[0])(name) == b"<|im_start|>"


def test_part_of_a_character_is_its_bytes() -> None:
    first, second = byte_level().encode("é").tokens
    to_bytes = find_token_bytes(DECODERS[0])
    assert (to_bytes(first), to_bytes(second)) == (b"\xc3", b"\xa9")
