"""Draws a recording as one SVG file that plays by itself: CSS alone, no script, no font, no other file.

The frames stand side by side on a film, which a window shows one by one. Rows that several frames have
are drawn once. A viewer that plays nothing, or that a reader asked for less motion, shows the last frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from xml.sax.saxutils import escape

from scripts.recording.cast import Cast, Frame, frames
from scripts.recording.palette import BACKGROUND, FOREGROUND, hex_colour
from scripts.recording.screen import BLANK, PLAIN, Line, Style

_WIDTH, _HEIGHT, _MARGIN, _FONT = 8, 17, 14, 13.3  # pixels; of a cell, around the screen, of text
_BASE = 13  # the text's base line in a cell
_HOLD_S = 4.0  # of the last frame
# lines from side to side of a cell of 8 x 17, since a font's own would have gaps
_BOX = {
    "─": "h{width}",
    "│": "m4 -8.5v17",
    "╭": "m4 8.5v-4.5q0 -4 4 -4",
    "╮": "q4 0 4 4v4.5",
    "╰": "m4 -8.5v4.5q0 4 4 4",
    "╯": "q4 0 4 -4v-4.5",
}


@dataclass(slots=True)
class _Rows:
    """Drawn rows by their names."""

    names: dict[str, str] = field(default_factory=dict)

    def name(self, drawn: str) -> str:
        """Return the name of a drawn row, the same for the same drawing."""
        return self.names.setdefault(drawn, f"r{len(self.names)}")


def draw(cast: Cast) -> str:
    """Return the SVG file of a recording."""
    shown = frames(cast)
    width, height = cast.num_columns * _WIDTH + 2 * _MARGIN, cast.num_rows * _HEIGHT + 2 * _MARGIN
    rows = _Rows()
    film = "".join(_frame(frame, number * width, rows) for number, frame in enumerate(shown))
    defined = "".join(f'<g id="{name}">{drawn}</g>\n' for drawn, name in rows.names.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n<title>{escape(cast.title)}</title>\n'
        f"<style>{_style(shown, width)}</style>\n<defs>\n{defined}</defs>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>\n'
        f'<g class="film">\n{film}</g>\n</svg>\n'
    )


def _style(shown: list[Frame], width: int) -> str:
    total_s = shown[-1].at_s + _HOLD_S
    steps = "".join(
        f"{100 * frame.at_s / total_s:.2f}%{{transform:translateX({-number * width}px)}}"
        for number, frame in enumerate(shown)
    )
    last = f"transform:translateX({-(len(shown) - 1) * width}px)"
    return (
        f"text{{font:{_FONT}px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        f"white-space:pre}}.film{{fill:{FOREGROUND}}}"
        ".b{font-weight:bold}.d{opacity:.6}.i{font-style:italic}"
        f"path{{fill:none;stroke:{FOREGROUND}}}"
        f".film{{{last};animation:film {total_s:.2f}s steps(1,end) infinite}}"
        f"@keyframes film{{{steps}100%{{{last}}}}}"
        "@media(prefers-reduced-motion:reduce){.film{animation:none}}"
    )


def _frame(frame: Frame, x: int, rows: _Rows) -> str:
    uses = [
        f'<use href="#{rows.name(drawn)}" y="{_MARGIN + number * _HEIGHT}"/>'
        for number, line in enumerate(frame.lines)
        if (drawn := _row(line))
    ]
    return f'<g transform="translate({x + _MARGIN})">{"".join(uses)}</g>\n'


def _row(line: Line) -> str:
    """Return the drawing of a row at the top left; empty for a blank one."""
    return "".join(_run(text, style, column) for text, style, column in _runs(line))


def _runs(line: Line) -> Iterator[tuple[str, Style, int]]:
    """Yield parts of one style and kind, with their columns; spaces at the ends are left out."""
    for (style, _), group in groupby(enumerate(line), lambda it: (it[1].style, _kind(it[1].text))):
        cells = list(group)
        while cells and cells[-1][1].text == BLANK.text:
            cells.pop()
        while cells and cells[0][1].text == BLANK.text:
            cells.pop(0)
        if cells:
            yield "".join(cell.text for _, cell in cells), style, cells[0][0]


def _kind(text: str) -> str:
    """Return what is drawn in one piece: bars, each of the box characters, or text."""
    return text if text == "█" or text in _BOX else "text"


def _run(text: str, style: Style, column: int) -> str:
    x, width, kind = column * _WIDTH, len(text) * _WIDTH, _kind(text[0])
    look = _look(style, "stroke" if kind in _BOX else "fill")
    if kind == "█":
        return f'<rect x="{x}" y="2" width="{width}" height="{_HEIGHT - 4}"{look}/>'
    if kind in _BOX:
        # only lines from left to right come in rows of several
        parts = (
            [(x, width)] if kind == "─" else [(x + i * _WIDTH, _WIDTH) for i in range(len(text))]
        )
        path = "".join(f"M{at} 8.5{_BOX[kind].format(width=wide)}" for at, wide in parts)
        return f'<path d="{path}"{look}/>'
    # every font then has the cells' width
    fitted = f' textLength="{width}" lengthAdjust="spacingAndGlyphs"' if len(text) > 1 else ""
    return f'<text x="{x}" y="{_BASE}"{fitted}{look}>{escape(text)}</text>'


def _look(style: Style, paint: str) -> str:
    if style == PLAIN:
        return ""
    names = "b" * style.is_bold + "d" * style.is_dim + "i" * style.is_italic
    found = f' class="{" ".join(names)}"' if names else ""
    if style.colour is not None:
        found += f' style="{paint}:{hex_colour(style.colour)}"'
    return found
