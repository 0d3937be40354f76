import pytest

from common.messages import Grammar, GrammarKind
from pdserve.errors import InvalidRequestError, Reason
from pdserve.v1 import inference_pb2
from router.intake.grammar_limits import MAX_BYTES, MAX_CHOICES, parse_grammar

Choice = inference_pb2.Choice
Form = inference_pb2.StructuredOutput
Sampling = inference_pb2.SamplingParams


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form(json_schema="{}"), Grammar(GrammarKind.JSON_SCHEMA, ("{}",))),
        (
            Form(json_schema="{}", strict_formats=True),
            Grammar(GrammarKind.JSON_SCHEMA, ("{}",), strict_formats=True),
        ),
        (Form(regex="a+"), Grammar(GrammarKind.REGEX, ("a+",))),
        (Form(grammar='start: "a"'), Grammar(GrammarKind.LARK, ('start: "a"',))),
        (Form(choice=Choice(texts=["a", "b"])), Grammar(GrammarKind.CHOICE, ("a", "b"))),
        (Form(regex="é" * (MAX_BYTES // 2)), Grammar(GrammarKind.REGEX, ("é" * (MAX_BYTES // 2),))),
    ],
    ids=["schema", "strict schema", "regex", "grammar", "choice", "largest"],
)
def test_a_form_becomes_a_grammar(form: Form, expected: Grammar) -> None:
    assert parse_grammar(Sampling(structured_output=form)) == expected


def test_without_a_form_there_is_none() -> None:
    assert parse_grammar(Sampling()) is None


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (Form(), ""),
        (Form(strict_formats=True), ""),
        (Form(regex="a", strict_formats=True), ".strict_formats"),
        (Form(json_schema=""), ".json_schema"),
        (Form(regex=""), ".regex"),
        (Form(grammar=""), ".grammar"),
        (Form(choice=Choice()), ".choice"),
        (Form(choice=Choice(texts=["a", ""])), ".choice"),
        (Form(choice=Choice(texts=["a"] * (MAX_CHOICES + 1))), ".choice"),
        (Form(choice=Choice(texts=["a" * 1000] * 132)), ".choice"),
        (Form(json_schema=" " * (MAX_BYTES + 1)), ".json_schema"),
        (Form(regex="é" * (MAX_BYTES // 2 + 1)), ".regex"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_form_of_a_wrong_size_is_refused_by_field(form: Form, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_grammar(Sampling(structured_output=form))
    assert caught.value.field == f"sampling.structured_output{field}"
    assert caught.value.reason is Reason.INVALID_FIELD


def test_a_form_ends_by_itself() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_grammar(Sampling(structured_output=Form(regex="a"), ignore_eos=True))
    assert caught.value.field == "sampling.ignore_eos"
