from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.journey.detokenizer import IncrementalDetokenizer
from tests.unit.router.tiny_tokenizer import BOS, IM_END, byte_fallback, byte_level

BYTES = byte_level()
WORDS = byte_fallback()
TEXTS = [
    "plain",
    "naïve café",  # precomposed
    "nai\u0308ve cafe\u0301",  # the same with combining marks
    "你好，世界",
    "👩‍🚀 and 🏳️‍🌈",  # four-byte characters joined by zero-width joiners
    "한국어 हिन्दी עברית",
    "a\ufffdb",  # a replacement character that is really meant
    "line\r\n\ttab\x00nul",
]
no_deadline = settings(deadline=None, derandomize=True)
any_text = st.text(max_size=40)


def stream(tokens: list[int], cuts: list[int] | None = None) -> list[str]:
    """The pieces for tokens that come one by one, or cut at the given places; the flush is last."""
    detokenizer = IncrementalDetokenizer(BYTES.decode)
    ends = [*sorted(cuts), len(tokens)] if cuts is not None else range(1, len(tokens) + 1)
    pieces, start = [], 0
    for end in ends:
        pieces.append(detokenizer.push(tokens[start:end]))
        start = end
    return [*pieces, detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_a_byte_at_a_time_gives_whole_characters_and_nothing_is_left(text: str) -> None:
    pieces = stream(list(text.encode()))
    assert "".join(pieces) == text
    assert pieces[-1] == ""
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_comes_with_its_last_byte() -> None:
    assert stream(list("é你🚀!".encode())) == ["", "é", "", "", "你", "", "", "", "🚀", "!", ""]


@no_deadline
@given(any_text, st.lists(st.integers(0, 160), max_size=6))
def test_any_text_cut_anywhere_is_the_full_decode(text: str, cuts: list[int]) -> None:
    tokens = list(text.encode())
    pieces = stream(tokens, [min(cut, len(tokens)) for cut in cuts])
    assert "".join(pieces) == BYTES.decode(tokens) == text


@no_deadline
@given(st.lists(st.integers(0, 255), max_size=24))
def test_bytes_that_are_no_text_are_the_full_decode_too(tokens: list[int]) -> None:
    assert "".join(stream(tokens)) == BYTES.decode(tokens)


@no_deadline
@given(any_text)
def test_no_piece_is_ever_taken_back(text: str) -> None:
    sent = ""
    detokenizer = IncrementalDetokenizer(BYTES.decode)
    for byte in text.encode():
        sent += detokenizer.push([byte])
        assert text.startswith(sent)


@no_deadline
@given(st.text(st.sampled_from("a the\nthéx你🚀"), min_size=1, max_size=30))
def test_words_and_byte_fallback_give_the_full_decode(text: str) -> None:
    tokens = WORDS.encode(text).ids
    detokenizer = IncrementalDetokenizer(WORDS.decode)
    pieces = [detokenizer.push([token]) for token in tokens]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == WORDS.decode(tokens)
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_space_before_a_word_is_kept_though_a_lone_word_has_none() -> None:
    detokenizer = IncrementalDetokenizer(WORDS.decode)
    the = WORDS.encode("the").ids
    assert [detokenizer.push(the) for _ in range(3)] == ["the", " the", " the"]


def test_an_unfinished_character_comes_out_broken_at_the_end_only() -> None:
    pieces = stream([*b"ok", 0xF0, 0x9F])
    assert pieces[:-1] == ["o", "k", "", ""]
    assert set(pieces[-1]) == {"\ufffd"}


def test_special_tokens_have_no_text_and_do_not_disturb_their_neighbours() -> None:
    tokens = [BOS, *"é".encode(), IM_END, ord("!"), IM_END]
    assert "".join(stream(tokens)) == "é!"


def test_after_a_flush_new_tokens_start_afresh() -> None:
    detokenizer = IncrementalDetokenizer(BYTES.decode)
    detokenizer.push([0xE4])
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""
    assert detokenizer.push(list(b"abc")) == "abc"


@pytest.mark.parametrize("byte", [0xFF, 0xE2, 0xF0, 0x80])
def test_bytes_that_never_become_text_are_sent_at_a_constant_cost(byte: int) -> None:
    longest = 0

    def decode(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return BYTES.decode(list(tokens))

    detokenizer = IncrementalDetokenizer(decode)
    sent = [detokenizer.push([byte]) for _ in range(1000)]
    assert "".join(sent) + detokenizer.flush() == "\ufffd" * 1000
    assert len("".join(sent)) >= 997
    assert longest <= 8


def test_tokens_without_text_are_not_kept() -> None:
    longest = 0

    def decode(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return BYTES.decode(list(tokens), skip_special_tokens=True)

    detokenizer = IncrementalDetokenizer(decode)
    assert "".join(detokenizer.push([IM_END]) for _ in range(100)) == ""
    assert detokenizer.push(list(b"a")) == "a"
    assert longest <= 8


def test_text_before_an_unfinished_character_is_sent() -> None:
    pieces = {1: b"ab\xc3", 2: b"\xa9", 3: b"c\xf0"}
    detokenizer = IncrementalDetokenizer(
        lambda tokens: b"".join(pieces[token] for token in tokens).decode(errors="replace")
    )
    assert [detokenizer.push([token]) for token in (1, 2, 3)] == ["ab", "é", "c"]
    assert detokenizer.flush() == "\ufffd"
