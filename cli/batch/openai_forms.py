"""Conversion of OpenAI's response_format into structured_output."""

from cli.batch.fields import as_object, as_text, refuse_unknown

_FORMAT_KEYS = frozenset({"type", "json_schema"})
# name and description are for human readers; every schema is enforced strictly here
_SCHEMA_KEYS = frozenset({"name", "description", "schema", "strict"})


def read_response_format(value: object) -> dict[str, object] | None:
    """Return the equivalent value of `structured_output`; None for free text. Raises ValueError."""
    if value is None:
        return None
    said = as_object("response_format", value)
    refuse_unknown(said, _FORMAT_KEYS, "response_format.")
    kind = as_text("response_format.type", said.get("type"))
    if kind == "json_schema":
        named = as_object("response_format.json_schema", said.get("json_schema"))
        refuse_unknown(named, _SCHEMA_KEYS, "response_format.json_schema.")
        schema = as_object("response_format.json_schema.schema", named.get("schema"))
        return {"json_schema": schema}
    if "json_schema" in said:
        raise ValueError("response_format.json_schema goes with type json_schema")
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    if kind == "text":
        return None
    raise ValueError(f"response_format.type '{kind}' is none of json_schema, json_object, text")
