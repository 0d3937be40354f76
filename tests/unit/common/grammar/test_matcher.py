import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.grammar.compiler import GrammarCompiler
from tests.examples import examples
from tests.unit.common.grammar.allowed import (
    EOS,
    VOCAB,
    accept,
    allowed,
    choice,
    follow,
    letters,
    make_compiler,
    regex,
    schema,
)
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

RECORDS = schema(
    '{"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "string", "maxLength": 3},'
    ' {"type": "object", "additionalProperties": {"type": "boolean"}}]}}'
)
# compiles, and cannot be followed to its end
EXPLODES = regex("[a-f]{12}(a{1000}){1000}")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    return make_compiler(write_folder(tmp_path_factory.mktemp("model")))


def test_each_row_is_its_own_sequences(compiler: GrammarCompiler) -> None:
    matchers = [compiler.compile(grammar) for grammar in (choice("no"), regex("a+"), choice("z"))]
    accept(matchers[1], "a")
    assert allowed(*matchers) == [letters("n"), letters("a") | {EOS}, letters("z")]


def test_tokens_beyond_the_tokenizer_are_never_allowed(compiler: GrammarCompiler) -> None:
    (anything,) = allowed(compiler.compile(regex("(?s:.)*")))
    assert len(anything) > 128
    assert max(anything) < VOCAB_SIZE < VOCAB


def test_sequences_of_one_grammar_are_independent(compiler: GrammarCompiler) -> None:
    first, second = (compiler.compile(EXPLODES) for _ in range(2))
    follow(first, "a" * 14)
    assert first.error
    assert allowed(second) == [letters("abcdef")]
    assert second.error is None


def test_one_that_fails_says_so_and_harms_no_other(compiler: GrammarCompiler) -> None:
    failing, healthy = compiler.compile(EXPLODES), compiler.compile(choice("no"))
    follow(failing, "a" * 14)
    rows = allowed(failing, healthy)
    assert rows == [set(range(-(-VOCAB // 32) * 32)), letters("n")]
    assert failing.error
    assert "\n" not in failing.error
    assert not failing.is_complete
    assert healthy.error is None


def test_a_token_that_does_not_fit_is_an_error(compiler: GrammarCompiler) -> None:
    matcher = accept(compiler.compile(choice("no")), "x")
    assert matcher.error
    assert not matcher.is_complete


def test_a_mask_may_be_without_any_token(compiler: GrammarCompiler) -> None:
    """The model has logits for 'a' and 'b' alone."""
    matcher = compiler.compile(choice("no"))
    assert allowed(matcher, vocab_size=99) == [set()]
    assert matcher.error is None


@settings(deadline=None, derandomize=True, max_examples=examples(20))
@given(seed=st.integers(0, 2**32), length=st.integers(0, 40))
def test_a_matcher_that_is_given_the_tokens_again_is_where_the_first_one_was(
    compiler: GrammarCompiler, seed: int, length: int
) -> None:
    draw, first, text = random.Random(seed), compiler.compile(RECORDS), []
    for _ in range(length):
        token_id = draw.choice(sorted(allowed(first)[0] - {EOS}) or [EOS])
        if token_id == EOS:
            break
        first.accept(token_id)
        text.append(token_id)
    again = compiler.compile(RECORDS)
    for token_id in text:
        again.accept(token_id)
    assert allowed(first) == allowed(again)
    assert first.is_complete == again.is_complete
