"""Tools of a chat: what the client offers, and the grammar that forces a call."""

import json
from typing import Annotated, Literal

from pydantic import Field

from pdserve.errors import InvalidRequestError
from router.edge.openai.fields import OpenAiModel, without_effect

_MAX_TOOLS = 128
# keywords by which a schema says more of an object's properties
_MORE = {
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "$ref",
}


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class FunctionSpec(OpenAiModel):
    """A function that the model may call."""

    name: FunctionName
    description: str = ""
    parameters: dict[str, object] | None = None
    strict: object = without_effect("forced calls keep to the schema always, free ones never")


class Tool(OpenAiModel):
    """One of the tools."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(OpenAiModel):
    """The function that a tool_choice names."""

    name: str


class NamedChoice(OpenAiModel):
    """A tool_choice that names a function."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


def offered(tools: list[Tool] | None, choice: ToolChoice | None) -> list[Tool]:
    """Return the tools that the model is told of. Raises InvalidRequestError."""
    if choice is not None and choice != "none" and not tools:
        raise InvalidRequestError("goes with tools only", field="tool_choice")
    if tools is None or choice == "none":
        return []
    if len(tools) > _MAX_TOOLS:
        raise InvalidRequestError(f"more than {_MAX_TOOLS}", field="tools")
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise InvalidRequestError("two have the same name", field="tools")
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        message = f"{choice.function.name!r} is none of the tools"
        raise InvalidRequestError(message, field="tool_choice")
    return tools


def forced_schema(tools: list[Tool], choice: ToolChoice | None, *, parallel: bool) -> str | None:
    """Return the JSON Schema of an answer that must be tool calls; None where it need not.

    The answer is a list of `{"name": ..., "arguments": ...}`. Arguments have no other properties
    than those that their schema lists, which every schema allows: small models would ramble on.
    """
    if isinstance(choice, NamedChoice):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
        parallel = False
    elif choice != "required":
        return None
    definitions: dict[str, object] = {}
    items = [_call_schema(tool, f"t{i}_", definitions) for i, tool in enumerate(tools)]
    schema: dict[str, object] = {"type": "array", "minItems": 1, "items": {"anyOf": items}}
    if not parallel:
        schema["maxItems"] = 1
    if definitions:
        schema["$defs"] = definitions
    return json.dumps(schema)


def _call_schema(tool: Tool, prefix: str, definitions: dict[str, object]) -> dict[str, object]:
    parameters = {"type": "object", **(tool.function.parameters or {})}
    for key in ("$defs", "definitions"):
        own = parameters.pop(key, None)
        if isinstance(own, dict):
            definitions.update({prefix + n: _renamed(_closed(s), prefix) for n, s in own.items()})
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.function.name},
            "arguments": _renamed(_closed(parameters), prefix),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _closed(schema: object) -> object:
    """Return a schema whose objects have the listed properties alone, where nothing else says more."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, dict):
        found["properties"] = {name: _closed(value) for name, value in properties.items()}
        if not _MORE & set(schema):
            found["additionalProperties"] = False
    if isinstance(schema.get("items"), dict):
        found["items"] = _closed(schema["items"])
    return found


def _renamed(schema: object, prefix: str) -> object:
    """Return a schema whose references point to the definitions of its tool in the whole."""
    if isinstance(schema, list):
        return [_renamed(entry, prefix) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _renamed(value, prefix) for key, value in schema.items()}
    target = schema.get("$ref")
    if isinstance(target, str):
        for start in ("#/$defs/", "#/definitions/"):
            if target.startswith(start):
                found["$ref"] = "#/$defs/" + prefix + target.removeprefix(start)
    return found
