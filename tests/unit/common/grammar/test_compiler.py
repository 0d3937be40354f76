from pathlib import Path

import pytest

from common.grammar.compiler import GrammarCompiler, GrammarError, try_out
from common.messages import Grammar
from tests.unit.common.grammar.allowed import (
    EOS,
    accept,
    allowed,
    choice,
    lark,
    letters,
    make_compiler,
    regex,
    schema,
)
from tests.unit.router.tiny_tokenizer import write_folder

PAIR = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    return make_compiler(write_folder(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    ("grammar", "text", "expected"),
    [
        (choice("yes", "no"), "", letters("yn")),
        (choice("yes", "no"), "y", letters("e")),
        (choice("no", "nobody"), "no", letters("b") | {EOS}),
        (choice("é"), "", {0xC3}),  # a character of two tokens
        (regex("(ab)+"), "", letters("a")),
        (regex("(ab)+"), "ab", letters("a") | {EOS}),
        (regex("[0-9]{2}"), "4", letters("0123456789")),
        (regex("x?"), "", letters("x") | {EOS}),
        (lark('start: "a" start "b" | "c"'), "aa", letters("ac")),
        (lark('start: "a" start "b" | "c"'), "aac", letters("b")),
        (schema(PAIR), "", letters("{")),
        (schema(PAIR), "{", letters('" ')),
        (schema(PAIR), "{ ", letters('"')),  # one space is enough
        (schema(PAIR), '{"a":', letters("-0123456789 ")),
        (schema(PAIR), '{"a":0', letters(" ,}")),
        (schema('{"enum": [1, null]}'), "", letters("1n")),
    ],
)
def test_a_mask_is_what_may_follow(
    compiler: GrammarCompiler, grammar: Grammar, text: str, expected: set[int]
) -> None:
    assert allowed(accept(compiler.compile(grammar), text)) == [expected]


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (choice("yes", "no"), "yes"),
        (regex("[0-9]{2}"), "42"),
        (lark('start: "a" start "b" | "c"'), "acb"),
        (schema(PAIR), '{"a": -7}'),
    ],
)
def test_a_text_is_complete_when_nothing_can_follow(
    compiler: GrammarCompiler, grammar: Grammar, text: str
) -> None:
    matcher = compiler.compile(grammar)
    for character in text:
        assert not matcher.is_complete
        accept(matcher, character)
    assert matcher.is_complete
    assert matcher.error is None


def test_a_text_that_may_end_is_not_complete_before_it_does(compiler: GrammarCompiler) -> None:
    matcher = accept(compiler.compile(regex("(ab)+")), "ab")
    assert not matcher.is_complete
    matcher.accept(EOS)
    assert matcher.is_complete


@pytest.mark.parametrize("text", ['a"b', "a\\n", "\n", "\x7f", "/*", "[x]{2}(", "é", "😀", "'"])
def test_a_choice_is_taken_letter_by_letter(compiler: GrammarCompiler, text: str) -> None:
    matcher = compiler.compile(choice(text, "other"))
    for byte in text.encode():
        assert byte in allowed(matcher)[0]
        matcher.accept(byte)
    assert matcher.is_complete


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (regex("(a"), "unclosed group"),
        (regex("(?=a)b"), "look-around"),
        (regex(r"(a)\1"), "backreferences"),
        (regex(r"[^\x00-\x{10FFFF}]"), "no text matches it"),
        (schema("{"), "EOF"),
        (schema("3"), "object"),
        (schema('{"type": "strng"}'), "strng"),
        (schema('{"not": {"type": "string"}}'), 'Unimplemented keys: ["not"]'),
        (schema('{"$ref": "http://example.com/x.json"}'), "example.com"),
        (schema('{"type": "string", "minLength": 5, "maxLength": 2}'), "minLength"),
        (lark("start: nothing"), "nothing"),
        (lark("start: start"), "no text matches it"),
        (lark("start: <|no_such_token|>"), "no_such_token"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_one_line(
    compiler: GrammarCompiler, grammar: Grammar, message: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        compiler.compile(grammar)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "grammar",
    [
        regex("(a{1000}){1000}"),
        schema('{"type": "string", "pattern": "^(a{1000}){1000}$"}'),
        lark('start: P a{100000}\nP: "p"\na: "x" b{1000}\nb: "y"'),
    ],
)
def test_what_explodes_on_the_way_is_found_by_trying_it(
    compiler: GrammarCompiler, grammar: Grammar
) -> None:
    with pytest.raises(GrammarError, match=r"[Tt]oo many"):
        try_out(compiler.compile(grammar))


def test_trying_a_grammar_leaves_its_matcher_at_the_start(compiler: GrammarCompiler) -> None:
    matcher = compiler.compile(regex("(ab)+"))
    try_out(matcher)
    assert allowed(matcher) == [letters("a")]


def test_a_model_without_an_end_token_gets_one(tmp_path: Path) -> None:
    compiler = make_compiler(write_folder(tmp_path), eos=())
    matcher = accept(compiler.compile(choice("no", "nobody")), "no")
    (end,) = allowed(matcher)[0] - letters("b")
    matcher.accept(end)
    assert matcher.is_complete
    assert accept(compiler.compile(choice("no", "nobody")), "nobody").is_complete


def test_a_tokenizer_may_know_more_tokens_than_the_model(tmp_path: Path) -> None:
    compiler = GrammarCompiler(write_folder(tmp_path), [EOS], min_vocab_size=100)
    matcher = compiler.compile(regex("[a-e]"))  # 97 to 101
    assert allowed(matcher, vocab_size=100) == [{97, 98, 99}]


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_folder_without_a_usable_tokenizer_is_refused(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(GrammarError, match=r"tokenizer\.json"):
        make_compiler(tmp_path)
