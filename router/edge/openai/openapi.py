"""The OpenAPI document, version 3.1: made from the table of paths and the request models."""

import functools
import re

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import ModelSchema

from router.edge.openai.answers import Json
from router.edge.openai.fields import OpenAiModel
from router.edge.openai.operations import EVENTS, JSON, OPERATIONS, TEXT, Operation

_SCHEMAS = "#/components/schemas/"
_RESPONSES = "#/components/responses/"
_PARAMETER = re.compile(r"{(\w+):path}")
_MEANINGS = {
    400: "The request can never work.",
    401: "There is no key, or one that is not known.",
    404: "This model or path is not served.",
    408: "The body did not come in time.",
    409: "A request with this id runs.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    429: "A queue or a tenant's limit is full.",
    500: "The server failed.",
    503: "No worker is ready, or the server drains.",
    504: "The request's time is over.",
}
_HEADERS = {401: "WWW-Authenticate"}
_STRING: Json = {"type": "string"}
_ERROR: Json = {
    "type": "object",
    "description": "An error in OpenAI's form.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _STRING,
                "type": _STRING,
                "param": {"type": ["string", "null"]},
                "code": _STRING,
            },
        }
    },
}
_REQUEST_ID: Json = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "The request's id; the server makes one where it is absent or empty.",
    "schema": {"type": "string", "pattern": "^[!-~]{0,256}$"},
}


class _Schemas(GenerateJsonSchema):
    """Schemas without titles, which only repeat the fields' names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Return False for every field."""
        return False

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """Return a model's schema without its title."""
        found = super().model_schema(schema)
        found.pop("title", None)
        return found


@functools.cache
def document(version: str) -> Json:
    """Return the document of a version of the server. Takes 0.1 s the first time."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    statuses = sorted({status for operation in OPERATIONS for status in operation.errors})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pdserve: OpenAI's API",
            "version": version,
            "description": "Null means absent. Unknown fields are refused by name.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {**_schemas(), "Error": _ERROR},
            "responses": {str(status): _error(status) for status in statuses},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of the access file; without that file, none is needed.",
                }
            },
        },
    }


def _schemas() -> Json:
    models: dict[str, type[OpenAiModel]] = {
        model.__name__: model for operation in OPERATIONS for model in operation.body
    }
    _, schema = models_json_schema(
        [(model, "validation") for model in models.values()],
        ref_template=_SCHEMAS + "{model}",
        schema_generator=_Schemas,
    )
    return dict(schema["$defs"])


def _operation(operation: Operation) -> Json:
    name = "_".join(re.findall(r"\w+", _PARAMETER.sub(r"\1", operation.path)))
    told: Json = {
        "operationId": f"{operation.method.lower()}_{name}",
        "summary": operation.summary,
        "security": [] if operation.is_open else [{}, {"key": []}],
        "parameters": _parameters(operation),
        "responses": _responses(operation),
    }
    if operation.body:
        refs: list[Json] = [{"$ref": _SCHEMAS + model.__name__} for model in operation.body]
        schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
        told["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return told


def _parameters(operation: Operation) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": _STRING}
        for name in _PARAMETER.findall(operation.path)
    ]
    return [*found, _REQUEST_ID] if operation.can_stream else found


def _responses(operation: Operation) -> Json:
    shape: Json = {"type": "object", "required": list(operation.keys)}
    kind = operation.media_type
    content: Json = {kind: {"schema": shape if kind == JSON else _STRING}}
    answer: Json = {"description": "The answer.", "content": content}
    if operation.can_stream:
        content[EVENTS] = {"schema": _STRING}
        answer["headers"] = {"X-Request-ID": {"required": True, "schema": _STRING}}
    texts = {str(status): _text(status) for status in operation.text_errors}
    refs = {str(status): {"$ref": f"{_RESPONSES}{status}"} for status in operation.errors}
    return {"200": answer, **texts, **refs}


def _text(status: int) -> Json:
    return {"description": _MEANINGS[status], "content": {TEXT: {"schema": _STRING}}}


def _error(status: int) -> Json:
    told: Json = {
        "description": _MEANINGS[status],
        "content": {JSON: {"schema": {"$ref": f"{_SCHEMAS}Error"}}},
    }
    if status in _HEADERS:
        told["headers"] = {_HEADERS[status]: {"required": True, "schema": _STRING}}
    return told
