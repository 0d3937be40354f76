"""Bases of the request models: every field is honoured, refused by name, or known to have no effect.

`docs/use/openai.md` lists them from these models; a field that no model has is refused by its name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pdserve.errors import InvalidRequestError

_MAX_SHOWN_CHARS = 200
_KEY = "pdserve"  # of json_schema_extra
_NULL = {"type": "null"}
_ABOUT = {"description", "default"}  # keywords of a JSON schema that forbid nothing


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Marks a field that is refused unless its value asks for nothing."""

    why: str
    neutral: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Marks a field that any value may have, since none changes the answer."""

    why: str


def _marked(marker: Unsupported | NoEffect) -> Callable[[dict[str, Any]], None]:
    def describe(schema: dict[str, Any]) -> None:
        what = "Refused" if isinstance(marker, Unsupported) else "No effect"
        schema["description"] = f"{what}: {marker.why}"
        if isinstance(marker, Unsupported):
            schema["enum"] = _distinct((None, *marker.neutral))

    setattr(describe, _KEY, marker)
    return describe


def refused(why: str, *neutral: object) -> Any:
    """Declare a field that is refused by name, except with one of the neutral values."""
    return Field(None, json_schema_extra=_marked(Unsupported(why, neutral)))


def without_effect(why: str) -> Any:
    """Declare a field that is accepted and changes nothing."""
    return Field(None, json_schema_extra=_marked(NoEffect(why)))


def marker_of(field: FieldInfo) -> Unsupported | NoEffect | None:
    """Return how a field is marked; None for one that is honoured."""
    extra = field.json_schema_extra
    return getattr(extra, _KEY, None)


class OpenAiModel(BaseModel):
    """A JSON object of a request. Null means absent, in every object alike."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: object) -> object:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the model's JSON Schema, in which what may be absent may be null."""
        schema = handler(core_schema)
        shape = handler.resolve_ref_schema(schema)
        required, properties = shape.get("required", ()), shape["properties"]
        for name, field in properties.items():
            if name not in required:
                properties[name] = _or_null(field)
        return schema

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> "OpenAiModel":
        for name in self.model_fields_set:
            marker = marker_of(type(self).model_fields[name])
            if isinstance(marker, Unsupported) and not _is_neutral(getattr(self, name), marker):
                raise InvalidRequestError(f"is not supported: {marker.why}", field=name)
        return self


class Unread(OpenAiModel):
    """Fields of every request that the answer does not depend on."""

    user: object = without_effect("tenants come from keys")
    store: object = without_effect("nothing is stored")
    metadata: object = without_effect("nothing is stored")
    service_tier: object = without_effect("there is one tier")
    safety_identifier: object = without_effect("tenants come from keys")
    prompt_cache_key: object = without_effect("prefixes are found by their tokens; see cache_salt")
    prompt_cache_retention: object = without_effect("the newest prefixes stay while memory lasts")


_Model = TypeVar("_Model", bound=OpenAiModel)


def parse(model: type[_Model], data: object) -> _Model:
    """Validate a request's JSON. Raises InvalidRequestError that names the field."""
    if not isinstance(data, dict):
        raise InvalidRequestError("must be a JSON object", field="body")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _to_refusal(error) from None


def _to_refusal(error: ValidationError) -> InvalidRequestError:
    """Choose the first problem that says most: of a union, the branch that came furthest."""
    problems = error.errors(include_url=False, include_context=False)
    problem = max(problems, key=lambda p: len(p["loc"]))
    field = ".".join(str(part) for part in problem["loc"] if not _is_branch(part))
    message = str(problem["msg"])
    if problem["type"] == "extra_forbidden":
        message = "is not a field that this server knows"
    return InvalidRequestError(message[:_MAX_SHOWN_CHARS], field=field or None)


def _is_branch(part: int | str) -> bool:
    """Tell whether a part of a location names a branch of a union and not a field."""
    return isinstance(part, str) and (not part.isidentifier() or part in _BRANCHES)


_BRANCHES = {"str", "int", "float", "bool", "dict", "list"}


def _distinct(values: Iterable[object]) -> list[object]:
    """Return values of which no two are the same in JSON, where 1 and 1.0 are."""
    found: list[object] = []
    for value in values:
        alike = [other for other in found if isinstance(other, bool) is isinstance(value, bool)]
        if value not in alike:
            found.append(value)
    return found


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Return the schema of a field that may be null too."""
    kinds = {"type", "$ref", "anyOf"} & schema.keys()
    if not kinds or _NULL in schema.get("anyOf", ()):
        return schema
    value = {key: entry for key, entry in schema.items() if key not in _ABOUT}
    about = {key: entry for key, entry in schema.items() if key in _ABOUT}
    return about | {"anyOf": [*value.get("anyOf", [value]), _NULL]}


def _is_neutral(value: object, marker: Unsupported) -> bool:
    return any(type(value) is type(n) and value == n for n in marker.neutral)
