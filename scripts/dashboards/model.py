"""Parts of a dashboard, and the JSON that Grafana loads. A board is rows of panels, 24 columns wide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Json = dict[str, object]

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_HEIGHT = 8
_STAT_HEIGHT = 4
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. `steps` are values from which another colour counts; the first colour has none."""

    title: str
    about: str
    queries: Sequence[Query]
    unit: str
    width: int = 8
    kind: str = "timeseries"
    steps: Sequence[tuple[str, float | None]] = ((GREEN, None),)
    is_stacked: bool = False
    least: float | None = 0.0
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; a closed row is opened by a click."""

    title: str
    panels: Sequence[Panel]
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of the board, of a label's values."""

    name: str
    label: str
    metric: str
    value_label: str
    has_several: bool = True


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    about: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    links: Mapping[str, str] = field(default_factory=dict)  # title: uid


def to_json(board: Board) -> Json:
    """Return the JSON model of a dashboard."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.about,
        "tags": ["pdserve"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [_link(title, uid) for title, uid in board.links.items()],
        "templating": {"list": [_source_choice(), *map(_choice, board.variables)]},
        "panels": _placed(board.rows),
    }


def _placed(rows: Sequence[Row]) -> list[Json]:
    """Return the rows and their panels, each with its place and number."""
    found: list[Json] = []
    top = number = 0
    for row in rows:
        number += 1
        head: Json = {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": not row.is_open,
            "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": top},
            "panels": [],
        }
        found.append(head)
        top += 1
        inner, left, line_height = list[Json](), 0, 0
        for panel in row.panels:
            height = _STAT_HEIGHT if panel.kind == "stat" else _HEIGHT
            if left + panel.width > _COLUMNS:
                top, left, line_height = top + line_height, 0, 0
            number += 1
            place = {"h": height, "w": panel.width, "x": left, "y": top}
            inner.append({"id": number, "gridPos": place, **_panel(panel)})
            left, line_height = left + panel.width, max(line_height, height)
        top += line_height
        if row.is_open:
            found += inner
        else:
            head["panels"] = inner
    return found


def _panel(panel: Panel) -> Json:
    steps = [{"color": color, "value": value} for color, value in panel.steps]
    defaults: Json = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
    }
    if panel.least is not None:
        defaults["min"] = panel.least
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.is_stacked else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if len(steps) > 1 else "off"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
        "targets": [_target(query, chr(ord("A") + n)) for n, query in enumerate(panel.queries)],
    }


def _target(query: Query, letter: str) -> Json:
    target: Json = {"refId": letter, "datasource": _SOURCE, "expr": query.expr}
    return {**target, "legendFormat": query.legend, "range": True}


def _options(kind: str) -> Json:
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background"}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _source_choice() -> Json:
    choice: Json = {"name": "datasource", "label": "Data source", "type": "datasource"}
    return {**choice, "query": "prometheus", "current": {}, "hide": 0}


def _choice(variable: Variable) -> Json:
    query = f"label_values({variable.metric}, {variable.value_label})"
    return {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": variable.name},
        "definition": query,
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": variable.has_several,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _link(title: str, uid: str) -> Json:
    link: Json = {"title": title, "type": "link", "url": f"/d/{uid}", "icon": "dashboard"}
    return {**link, "keepTime": True, "includeVars": True, "targetBlank": False}
