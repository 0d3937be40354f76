"""PromQL of our boards and rules, as far as tests look into it: metrics, labels and their values."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tests.unit.repository.sources import ROOT

OBSERVABILITY = ROOT / "deploy" / "observability"
BOARDS = sorted((OBSERVABILITY / "grafana" / "dashboards").glob("*.json"))
RULES = OBSERVABILITY / "prometheus" / "rules.yml"
# those that Prometheus adds, and the variables of a board
ADDED = {"job", "instance", "le"}

_SELECTED = re.compile(r"\b((?:pdserve|process|vllm:)\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric of an expression, with its matchers: label, operator, value."""

    sample: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expr: str) -> list[Selector]:
    """Return the metrics that an expression reads; recorded ones have a colon and are left out."""
    plain = re.sub(r"\bpdserve:[\w:]+", "recorded", expr)
    return [
        Selector(name, tuple(_MATCHER.findall(matchers or "")))
        for name, matchers in _SELECTED.findall(_GROUPED.sub("", plain))
    ]


def grouped_labels(expr: str) -> set[str]:
    """Return the labels by which an expression groups or joins."""
    found = (labels.split(",") for labels in _GROUPED.findall(expr))
    return {label.strip() for labels in found for label in labels if label.strip()}


def board(path: Any) -> dict[str, Any]:
    """Return a board's JSON."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def panels(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all panels of a board but its rows, those of closed rows too."""
    for panel in model["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def rules() -> list[dict[str, Any]]:
    """Return all rules, recorded ones and alerts."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Return the alerts."""
    return [rule for rule in rules() if "alert" in rule]


def expressions() -> dict[str, list[str]]:
    """Return all PromQL by the board or rule that has it, and the legends' labels as groupings."""
    found: dict[str, list[str]] = {}
    for path in BOARDS:
        model = board(path)
        for panel in panels(model):
            for target in panel["targets"]:
                found.setdefault(f"{path.name}: {panel['title']}", []).append(target["expr"])
        for variable in model["templating"]["list"]:
            if variable["type"] == "query":
                query = variable["query"]["query"]
                metric, _, label = query.removeprefix("label_values(").rstrip(")").rpartition(",")
                found[f"{path.name}: ${variable['name']}"] = [f"max by ({label}) ({metric})"]
    for rule in rules():
        found[rule.get("alert") or rule["record"]] = [rule["expr"]]
    return found
