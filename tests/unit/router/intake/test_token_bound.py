"""The bound against what tokenizers make of the texts that are worst for it."""

import json
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from router.intake.token_bound import TokenBound, find_bound
from tests.unit.router.tiny_tokenizer import byte_fallback, byte_level


def merging() -> Tokenizer:
    """Byte-level, with a token of four x, and without a symbol for "q"."""
    vocab = {symbol: number for symbol, number in byte_level().get_vocab().items() if number < 256}
    del vocab["q"]
    vocab |= {"xx": 300, "xxxx": 301}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("x", "x"), ("xx", "xx")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def composing() -> Tokenizer:
    tokenizer = merging()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def bound_of(tokenizer: Tokenizer) -> TokenBound | None:
    return find_bound(json.loads(tokenizer.to_str()))


@pytest.mark.parametrize("make", [byte_level, merging, composing, byte_fallback])
@given(
    text=st.text(
        st.one_of(st.sampled_from("xxxxq e\u0301\u1100\u1161\u11a8▁"), st.characters(codec="utf-8"))
    ),
    times=st.integers(1, 20),
)
def test_no_text_has_fewer_tokens(make: Callable[[], Tokenizer], text: str, times: int) -> None:
    tokenizer = make()
    bound = bound_of(tokenizer)
    assert bound is not None
    assert bound.least_tokens(text * times) <= len(tokenizer.encode(text * times).ids)


def test_it_is_as_good_as_the_longest_token_allows() -> None:
    bound = bound_of(merging())
    assert bound is not None
    assert bound.longest_bytes == 4
    assert bound.least_tokens("x" * 4001) == 1001 == len(merging().encode("x" * 4001).ids)
    assert bound.least_tokens("q" * 4000) == 0 == len(merging().encode("q" * 4000).ids)
    composed = bound_of(composing())
    assert composed is not None
    assert (composed.least_tokens("x" * 4000), composed.least_tokens("é" * 4000)) == (1000, 0)
    fallback = bound_of(byte_fallback())
    assert fallback is not None
    assert fallback.longest_bytes == len("▁the".encode())


def test_no_character_is_composed_of_two_ascii_ones() -> None:
    """Unicode fact behind the bound for NFC: of two composed characters at most one is ASCII."""
    for point in range(128, sys.maxunicode + 1):
        parts = unicodedata.normalize("NFD", chr(point))
        assert sum(part.isascii() for part in parts) <= 1


def swallowing() -> Tokenizer:
    tokenizer = merging()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])
    return tokenizer


def removing() -> Tokenizer:
    tokenizer = merging()
    split = pre_tokenizers.Split(Regex(" "), "removed")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, tokenizer.pre_tokenizer])
    return tokenizer


def stripping() -> Tokenizer:
    tokenizer = merging()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])
    return tokenizer


def without_bytes() -> Tokenizer:
    """Whatever it does not know is one unknown token, however long."""
    return Tokenizer(models.BPE(vocab={"<unk>": 0, "a": 1}, merges=[], unk_token="<unk>"))


def words() -> Tokenizer:
    return Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))


@pytest.mark.parametrize("make", [swallowing, removing, stripping, without_bytes, words])
def test_where_text_may_be_lost_there_is_none(make: Callable[[], Tokenizer]) -> None:
    assert bound_of(make()) is None


@pytest.mark.parametrize("content", [{}, {"model": 7, "added_tokens": {}}, {"model": {}}])
def test_what_is_no_tokenizer_has_none(content: dict[str, object]) -> None:
    assert find_bound(content) is None
