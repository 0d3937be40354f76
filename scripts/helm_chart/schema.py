"""JSON schema of a chart's values, from its defaults: a value that no template reads is refused."""

from typing import Any

# written as a whole; their keys are pdserve's or Kubernetes' own
_OPEN = {
    *("settings.engine", "settings.router", "prefill.nodeSelector", "decode.nodeSelector"),
    *("models.fetchResources", "head.resources", "router.resources"),
}
_QUANTITIES = {"cpu", "memory"}  # of Kubernetes: "500m", but also 2


def schema(values: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of all values; `global` is Helm's own."""
    made = {"$schema": "http://json-schema.org/draft-07/schema#"} | _of(values, ())
    made["properties"]["global"] = {"type": "object"}
    return made


def _of(value: object, path: tuple[str, ...]) -> dict[str, Any]:
    if ".".join(path) in _OPEN:
        return {"type": "object"}
    if isinstance(value, dict):
        inner = {name: _of(one, (*path, name)) for name, one in value.items()}
        return {"type": "object", "properties": inner, "additionalProperties": False}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer", "minimum": 0}
    if isinstance(value, list):
        return {"type": "array"}
    return {"type": ["string", "number"] if path[-1] in _QUANTITIES else "string"}
