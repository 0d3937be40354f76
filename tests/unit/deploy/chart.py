"""Objects that `helm template` would write, for the few constructs that our chart uses."""

import hashlib
import json
import re
from typing import Any

import yaml

from scripts.helm_chart.__main__ import CHART
from scripts.kustomize import Doc

_CONDITION = re.compile(r" *\{\{- if (not )?\.Values\.([\w.]+) \}\}")
_VALUE = re.compile(r"\{\{ \.Values\.([\w.]+) \| (toJson|quote) \}\}")
_SUM = '{{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}'


def values_of(given: Doc) -> Doc:
    """Return the chart's values with those that somebody gives."""
    return _merged(values_file("values.yaml"), given)


def values_file(name: str) -> Doc:
    """Return what one of the chart's files gives beside the values of all."""
    found: Doc = yaml.safe_load((CHART / name).read_text("utf-8"))
    return found


def render_chart(values: Doc) -> list[Doc]:
    """Return the chart's objects. Raises ValueError for a construct that is not known here."""
    texts = {path.name: path.read_text("utf-8") for path in (CHART / "templates").iterdir()}
    digest = hashlib.sha256(_fill(texts["configmap.yaml"], values).encode()).hexdigest()
    filled = [_fill(text.replace(_SUM, digest), values) for text in texts.values()]
    return [doc for text in filled for doc in yaml.safe_load_all(text) if doc is not None]


def render_with_helm(given: Doc) -> list[Doc] | None:
    """Render with Helm's own library, None if it is missing: `pip install helm-python-sdk`."""
    try:
        import helm_python
    except ImportError:
        return None
    with helm_python.Chart.load(str(CHART)) as loaded:
        texts = loaded.render(given, name="pdserve", namespace="pdserve").values()
    return [doc for text in texts for doc in yaml.safe_load_all(text) if doc is not None]


def paths(values: Doc) -> set[str]:
    """Return the paths of the values that templates can name, groups of them included."""
    found = set()
    for key, value in values.items():
        found.add(key)
        if isinstance(value, dict):
            found |= {f"{key}.{inner}" for inner in paths(value)}
    return found


def named_paths() -> set[str]:
    """Return the paths that the templates name."""
    texts = [path.read_text("utf-8") for path in (CHART / "templates").iterdir()]
    return {path for text in texts for path in re.findall(r"\.Values\.([\w.]+)", text)}


def _merged(below: Doc, above: Doc) -> Doc:
    # as Helm does it: mappings merge, null takes a key away
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


def _fill(text: str, values: Doc) -> str:
    lines = []
    shown: list[bool] = []  # of each open condition
    for line in text.splitlines():
        if condition := _CONDITION.fullmatch(line):
            shown.append(bool(_value(values, condition[2])) is not bool(condition[1]))
        elif line.strip() == "{{- end }}":
            shown.pop()
        elif all(shown):
            lines.append(_VALUE.sub(lambda found: _written(found, values), line))
    filled = "\n".join(lines) + "\n"
    if shown or "{{" in filled:
        raise ValueError(f"this renderer does not know a construct of {filled}")
    return filled


def _written(found: re.Match[str], values: Doc) -> str:
    value = _value(values, found[1])
    return json.dumps(str(value) if found[2] == "quote" else value)


def _value(values: Doc, path: str) -> Any:
    found: Any = values
    for key in path.split("."):
        found = (found or {}).get(key)
    return found
