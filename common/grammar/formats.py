"""String formats of JSON schemas. Those that cannot be kept say nothing, as JSON Schema has it."""

import json

# what llguidance keeps; "unknown" is its name for any text
KEPT_FORMATS = frozenset(
    {
        *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri"),
        *("uuid", "unknown"),
    }
)
_DATA = {"const", "default", "enum", "examples"}  # no schemas in them
_NAMED = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}


def drop_other_formats(schema: str) -> str:
    """Return the schema, a JSON text, without each `format` that is not one of KEPT_FORMATS.

    A text that is no JSON, or nests too deeply, is returned as it is.
    """
    try:
        parsed = json.loads(schema)
        kept = _drop(parsed, has_keywords=True)
        return schema if kept == parsed else json.dumps(kept)
    except (ValueError, RecursionError):
        return schema


def _drop(part: object, *, has_keywords: bool) -> object:
    """Return a part of a schema without them; the keys of an object are keywords or names."""
    if isinstance(part, list):
        return [_drop(entry, has_keywords=True) for entry in part]
    if not isinstance(part, dict):
        return part
    if not has_keywords:
        return {name: _drop(entry, has_keywords=True) for name, entry in part.items()}
    return {
        key: value if key in _DATA else _drop(value, has_keywords=key not in _NAMED)
        for key, value in part.items()
        if key != "format" or not isinstance(value, str) or value in KEPT_FORMATS
    }
