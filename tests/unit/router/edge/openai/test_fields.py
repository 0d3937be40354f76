"""Every field of both requests: with a value, with null, with a wrong value; and what is none."""

from collections.abc import Iterator

import pytest

from pdserve.errors import InvalidRequestError
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.completion_request import CompletionRequest
from router.edge.openai.fields import NoEffect, OpenAiModel, Unsupported, marker_of, parse

LEAST: dict[type[OpenAiModel], dict[str, object]] = {
    ChatRequest: {"messages": [{"role": "user", "content": "a"}]},
    CompletionRequest: {"prompt": "a"},
}
STRANGE = {"no": {"such": ["value"]}}


def fields(*kinds: type) -> Iterator[tuple[type[OpenAiModel], str]]:
    for model in LEAST:
        for name, field in model.model_fields.items():
            if isinstance(marker_of(field), kinds):
                yield model, name


@pytest.mark.parametrize(("model", "name"), [*fields(NoEffect, Unsupported, type(None))])
def test_null_means_absent(model: type[OpenAiModel], name: str) -> None:
    if name in LEAST[model]:
        return  # the only one that must be there
    assert parse(model, {**LEAST[model], name: None}) == parse(model, LEAST[model])


@pytest.mark.parametrize(("model", "name"), [*fields(NoEffect)])
def test_a_field_without_effect_may_have_any_value(model: type[OpenAiModel], name: str) -> None:
    parse(model, {**LEAST[model], name: STRANGE})


@pytest.mark.parametrize(("model", "name"), [*fields(Unsupported)])
def test_an_unsupported_field_is_refused_by_its_name(model: type[OpenAiModel], name: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not supported") as error:
        parse(model, {**LEAST[model], name: STRANGE})
    assert error.value.field == name


@pytest.mark.parametrize(("model", "name"), [*fields(Unsupported)])
def test_an_unsupported_field_may_say_that_it_wants_nothing(
    model: type[OpenAiModel], name: str
) -> None:
    marker = marker_of(model.model_fields[name])
    assert isinstance(marker, Unsupported)
    for value in marker.neutral:
        parse(model, {**LEAST[model], name: value})


@pytest.mark.parametrize(("model", "name"), [*fields(type(None))])
def test_an_honoured_field_with_a_wrong_value_is_named(model: type[OpenAiModel], name: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        parse(model, {**LEAST[model], name: [STRANGE, object()]})
    assert error.value.field is not None
    assert error.value.field.partition(".")[0] == name


@pytest.mark.parametrize("model", LEAST)
def test_a_field_that_nobody_knows_is_refused_by_its_name(model: type[OpenAiModel]) -> None:
    with pytest.raises(InvalidRequestError, match="not a field that this server knows") as error:
        parse(model, {**LEAST[model], "temprature": 1})
    assert error.value.field == "temprature"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": "1"}, "temperature"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [1]}, "stop.0"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "judge", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages.0.x"),
        ({"response_format": {}}, "response_format.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"stream_options": {"include": True}}, "stream_options.include"),
    ],
)
def test_a_refusal_names_the_innermost_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        parse(ChatRequest, {**LEAST[ChatRequest], **change})
    assert error.value.field == field


@pytest.mark.parametrize("body", [None, [], "a", 1])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidRequestError, match="must be a JSON object"):
        parse(ChatRequest, body)
