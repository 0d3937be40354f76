import json
from collections.abc import Callable

import pytest

from common.grammar.compiler import GrammarCompiler, GrammarError
from common.grammar.formats import KEPT_FORMATS, drop_other_formats
from common.messages import Grammar, GrammarKind
from tests.unit.common.grammar.allowed import (
    EOS,
    accept,
    allowed,
    letters,
    make_compiler,
    schema,
)
from tests.unit.router.tiny_tokenizer import write_folder

# the first six are the issue's; then those of the standard and of OpenAPI
OTHERS = (
    *("password", "binary", "path", "decimal", "uuid4", "base64url", "idn-email", "idn-hostname"),
    *("uri-reference", "iri", "iri-reference", "uri-template", "json-pointer", "regex"),
    *("relative-json-pointer", "byte", "int32", "int64", "float", "double"),
)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    return make_compiler(write_folder(tmp_path_factory.mktemp("model")))


def of_format(name: str) -> str:
    return json.dumps({"type": "string", "format": name, "maxLength": 2})


def strict(text: str) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, (text,), strict_formats=True)


@pytest.mark.parametrize("name", OTHERS)
def test_a_format_that_cannot_be_kept_says_nothing_unless_it_has_to(
    compiler: GrammarCompiler, name: str
) -> None:
    matcher = accept(compiler.compile(schema(of_format(name))), '"!')
    assert letters('"~A0 ') <= allowed(matcher)[0]
    with pytest.raises(GrammarError, match=name):
        compiler.compile(strict(of_format(name)))


@pytest.mark.parametrize("name", sorted(KEPT_FORMATS))
def test_a_format_that_is_listed_is_kept(compiler: GrammarCompiler, name: str) -> None:
    text = json.dumps({"type": "string", "format": name})
    assert drop_other_formats(text) == text
    relaxed, kept = (compiler.compile(g) for g in (schema(text), strict(text)))
    for matcher in (relaxed, kept):
        accept(matcher, '"')
    assert allowed(relaxed) == allowed(kept)


def test_a_date_is_a_date(compiler: GrammarCompiler) -> None:
    matcher = accept(
        compiler.compile(schema(json.dumps({"type": "string", "format": "date"}))), '"'
    )
    assert allowed(matcher) == [letters("0123456789")]


def test_other_keywords_of_the_schema_stay(compiler: GrammarCompiler) -> None:
    matcher = accept(compiler.compile(schema(of_format("password"))), '"ab')
    assert allowed(matcher) == [letters('"')]
    assert EOS in allowed(accept(matcher, '"'))[0] or matcher.is_complete


def test_it_is_found_wherever_schemas_are() -> None:
    password, plain = {"type": "string", "format": "password"}, {"type": "string"}
    places: list[Callable[[object], dict[str, object]]] = [
        lambda s: {"properties": {"format": s, "enum": s, "default": s}},
        lambda s: {"items": s},
        lambda s: {"prefixItems": [s, {"anyOf": [s, {"not": s}]}]},
        lambda s: {"$defs": {"properties": {"patternProperties": {"a": s}}}},
        lambda s: {"components": {"schemas": {"X": s}}, "$ref": "#/components/schemas/X"},
        lambda s: {"additionalProperties": s},
    ]
    for place in places:
        assert json.loads(drop_other_formats(json.dumps(place(password)))) == place(plain)


@pytest.mark.parametrize(
    "text",
    [
        '{"enum": [{"format": "password"}], "const": {"format": "path"}}',
        '{"default": {"format": "path"}, "examples": [{"format": "path"}]}',
        '{"properties": {"format": {"type": "string"}}}',
        '{"type": "string", "format": 7}',
        '{"type": "number",   "multipleOf": 1e-2}',
        '{"format": "password"',
        "[" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        "NaN",
        "true",
        "",
    ],
    ids=lambda text: text[:30],
)
def test_anything_else_stays_as_it_is(text: str) -> None:
    assert drop_other_formats(text) == text


def test_numbers_and_half_characters_survive() -> None:
    kept = r'{"maximum": 123456789012345678901234567890, "minimum": 0.1, "const": "\ud800"}'
    dropped = kept[:-1] + ', "format": "path"}'
    assert json.loads(drop_other_formats(dropped)) == json.loads(kept)
    drop_other_formats(dropped).encode()
