"""Recordings of a terminal in the form of asciinema's asciicast, version 2."""

import json
from dataclasses import dataclass
from pathlib import Path

from scripts.recording.screen import Line, Screen, written


@dataclass(frozen=True, slots=True)
class Cast:
    """A terminal's size, and what was written when: seconds since the start, and output."""

    num_columns: int
    num_rows: int
    title: str
    events: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """A screen, and the seconds since the start at which it came up."""

    at_s: float
    lines: tuple[Line, ...]


def write(cast: Cast, path: Path) -> None:
    """Write a file of one JSON value a line."""
    head = {
        "version": 2,
        "width": cast.num_columns,
        "height": cast.num_rows,
        "title": cast.title,
    }
    values = [head, *([round(at_s, 3), "o", output] for at_s, output in cast.events)]
    lines = [json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def read(path: Path) -> Cast:
    """Return a file's recording. Raises ValueError if it has another version."""
    head, *events = map(json.loads, path.read_text("utf-8").splitlines())
    if head["version"] != 2:
        raise ValueError(f"{path}: version {head['version']}, expected 2")
    outputs = tuple((float(at_s), str(output)) for at_s, kind, output in events if kind == "o")
    return Cast(head["width"], head["height"], head["title"], outputs)


def changes(before: tuple[Line, ...], after: tuple[Line, ...]) -> str:
    """Return the output that makes one screen the other."""
    rows = enumerate(zip(before, after, strict=True), 1)
    return "".join(f"\x1b[{row};1H\x1b[2K{written(new)}" for row, (old, new) in rows if old != new)


def frames(cast: Cast) -> list[Frame]:
    """Return the screens of a recording; output at the same moment makes one."""
    screen = Screen(cast.num_columns, cast.num_rows)
    found: list[Frame] = []
    for at_s, output in cast.events:
        screen.feed(output)
        if found and found[-1].at_s == at_s:
            found.pop()
        found.append(Frame(at_s, screen.lines()))
    return found
