import json

import jsonschema
import pytest

from pdserve.errors import InvalidRequestError
from router.edge.openai.fields import parse
from router.edge.openai.tools import NamedChoice, Tool, ToolChoice, forced_schema, offered

PERSON: dict[str, object] = {
    "type": "object",
    "properties": {"who": {"$ref": "#/$defs/Name"}},
    "required": ["who"],
    "$defs": {"Name": {"type": "string"}},
}
AGE: dict[str, object] = {
    "type": "object",
    "properties": {"age": {"$ref": "#/definitions/Name"}},
    "required": ["age"],
    "definitions": {"Name": {"type": "integer"}},
}


def tool(name: str, parameters: dict[str, object] | None = None) -> Tool:
    return parse(Tool, {"type": "function", "function": {"name": name, "parameters": parameters}})


TOOLS = [tool("greet", PERSON), tool("count", AGE), tool("stop")]
NAMED = parse(NamedChoice, {"type": "function", "function": {"name": "count"}})


def allows(choice: ToolChoice, calls: object, *, parallel: bool = True) -> bool:
    schema = forced_schema(TOOLS, choice, parallel=parallel)
    assert schema is not None
    return not [*jsonschema.Draft202012Validator(json.loads(schema)).iter_errors(calls)]


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


def test_required_wants_one_call_at_least() -> None:
    assert allows("required", [call("greet", who="Ann"), call("count", age=3), call("stop")])
    assert not allows("required", [])
    assert not allows("required", [call("shout")])
    assert not allows("required", {"name": "stop", "arguments": {}})


def test_references_of_each_tool_lead_to_its_own_definitions() -> None:
    assert not allows("required", [call("greet", who=3)])
    assert not allows("required", [call("count", age="three")])


def test_without_parallel_calls_there_is_one() -> None:
    assert allows("required", [call("stop")], parallel=False)
    assert not allows("required", [call("stop"), call("stop")], parallel=False)


def test_a_named_function_is_the_only_one_and_called_once() -> None:
    assert allows(NAMED, [call("count", age=3)])
    assert not allows(NAMED, [call("stop")])
    assert not allows(NAMED, [call("count", age=3)] * 2)


@pytest.mark.parametrize("choice", [None, "auto"])
def test_other_choices_force_nothing(choice: ToolChoice | None) -> None:
    assert forced_schema(TOOLS, choice, parallel=True) is None


def test_none_offers_no_tools() -> None:
    assert offered(TOOLS, "none") == []
    assert offered(None, None) == []
    assert offered(TOOLS, "auto") == TOOLS


@pytest.mark.parametrize(
    ("tools", "choice", "field"),
    [
        (None, "required", "tool_choice"),
        ([], "auto", "tool_choice"),
        ([tool("a"), tool("a")], None, "tools"),
        ([tool("a")], NAMED, "tool_choice"),
        ([tool(f"t{number}") for number in range(129)], None, "tools"),
    ],
)
def test_what_fits_nothing_is_refused(
    tools: list[Tool] | None, choice: ToolChoice | None, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as error:
        offered(tools, choice)
    assert error.value.field == field


NESTED: dict[str, object] = {
    "type": "object",
    "properties": {
        "place": {"type": "object", "properties": {"city": {"type": "string"}}},
        "more": {"type": "object", "additionalProperties": {"type": "integer"}},
        "either": {"anyOf": [{"type": "object", "properties": {"a": {}}}], "properties": {"b": {}}},
    },
}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ({"place": {"city": "Oslo"}}, True),
        ({"other": 1}, False),
        ({"place": {"other": 1}}, False),
        ({"more": {"any": 1}}, True),
        ({"either": {"a": 1, "b": 2, "c": 3}}, True),
    ],
)
def test_arguments_have_the_listed_properties_alone_where_the_schema_leaves_it_open(
    arguments: dict[str, object], allowed: bool
) -> None:
    schema = forced_schema([tool("go", NESTED)], "required", parallel=True)
    assert schema is not None
    found = [{"name": "go", "arguments": arguments}]
    errors = [*jsonschema.Draft202012Validator(json.loads(schema)).iter_errors(found)]
    assert (not errors) == allowed
