"""The OpenAPI document: valid, complete, and as strict as the request models are."""

from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from pdserve.errors import InvalidRequestError
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.completion_request import CompletionRequest
from router.edge.openai.fields import NoEffect, OpenAiModel, Unsupported, marker_of, parse
from router.edge.openai.openapi import document
from router.edge.openai.operations import OPERATIONS
from router.edge.openai.responses.request import ResponseRequest

LEAST: dict[type[OpenAiModel], dict[str, object]] = {
    ChatRequest: {"messages": [{"role": "user", "content": "a"}]},
    CompletionRequest: {"prompt": "a"},
    ResponseRequest: {"input": "a"},
}
MODELS = [*LEAST]
VALUES: list[object] = [None, "x", 5, 0.5, True, [], ["a"], {}, {"no": {"such": ["value"]}}]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return document("1.2.3")


def validator(told: dict[str, Any], model: type[OpenAiModel]) -> jsonschema.Draft202012Validator:
    schemas = {**told, "$ref": f"#/components/schemas/{model.__name__}"}
    return jsonschema.Draft202012Validator(schemas)


def test_it_is_valid(told: dict[str, Any]) -> None:
    openapi_spec_validator.validate(told)
    assert (told["openapi"], told["info"]["version"]) == ("3.1.0", "1.2.3")


def test_it_has_every_path(told: dict[str, Any]) -> None:
    found = {(method.upper(), path) for path, each in told["paths"].items() for method in each}
    served = {(o.method, o.path.replace("{model:path}", "{model}")) for o in OPERATIONS}
    assert found == served


@pytest.mark.parametrize("model", MODELS)
def test_it_has_every_field_and_says_what_is_not_honoured(
    told: dict[str, Any], model: type[OpenAiModel]
) -> None:
    schema = told["components"]["schemas"][model.__name__]
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(model.model_fields)
    for name, field in model.model_fields.items():
        about = schema["properties"][name].get("description", "")
        kinds = {Unsupported: "Refused: ", NoEffect: "No effect: ", type(None): ""}
        assert about.startswith(kinds[type(marker_of(field))])


@pytest.mark.parametrize("model", MODELS)
def test_it_allows_what_the_models_take_and_nothing_else(
    told: dict[str, Any], model: type[OpenAiModel]
) -> None:
    check = validator(told, model)
    for name, field in model.model_fields.items():
        marker = marker_of(field)
        neutral = marker.neutral if isinstance(marker, Unsupported) else ()
        for value in (*VALUES, *neutral):
            body = {**LEAST[model], name: value}
            assert check.is_valid(body) == can_parse(model, body), (name, value)


def can_parse(model: type[OpenAiModel], body: object) -> bool:
    try:
        parse(model, body)
    except InvalidRequestError:
        return False
    return True
