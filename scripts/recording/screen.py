"""Screen of a terminal: what a program's output makes of it. Understands what `rich` writes."""

import re
from dataclasses import dataclass, replace

from rich.cells import cell_len

_TOKENS = re.compile(r"\x1b\[(?P<numbers>[\d;?]*)(?P<final>[A-Za-z])|(?P<text>[^\x1b\r\n]+)|[\r\n]")
_IGNORED = {("?25", "l"), ("?25", "h")}  # the cursor, which is never drawn


@dataclass(frozen=True, slots=True)
class Style:
    """Look of a cell; `colour` is a number of the palette of 256, None for the default one."""

    colour: int | None = None
    is_bold: bool = False
    is_dim: bool = False
    is_italic: bool = False


PLAIN = Style()


@dataclass(frozen=True, slots=True)
class Cell:
    """One place; the second place of a wide character has an empty text."""

    text: str = " "
    style: Style = PLAIN


BLANK = Cell()
Line = tuple[Cell, ...]


class Screen:
    """Grid of cells that scrolls. `feed` may get a sequence's parts in several pieces."""

    def __init__(self, num_columns: int, num_rows: int) -> None:
        self._num_columns = num_columns
        self._lines = [self._blank() for _ in range(num_rows)]
        self._row = self._column = 0
        self._style = PLAIN
        self._rest = ""

    def lines(self) -> tuple[Line, ...]:
        """Return the rows from the top."""
        return tuple(map(tuple, self._lines))

    def text(self) -> str:
        """Return all rows without styles."""
        return "\n".join("".join(cell.text for cell in line).rstrip() for line in self._lines)

    def feed(self, output: str) -> None:
        """Take output. Raises ValueError for a sequence that is not understood."""
        output, at = self._rest + output, 0
        while at < len(output):
            found = _TOKENS.match(output, at)
            if found is None:
                break  # the end of a sequence is still to come
            at = found.end()
            if found["text"]:
                self._write(found["text"])
            elif found["final"]:
                self._control(found["numbers"], found["final"])
            elif found[0] == "\r":
                self._column = 0
            else:
                self._next_row()
        self._rest = output[at:]
        if len(self._rest) > 20:  # longer than any sequence of rich
            raise ValueError(f"not understood: {self._rest[:20]!r}")

    def _blank(self) -> list[Cell]:
        return [BLANK] * self._num_columns

    def _write(self, text: str) -> None:
        for char in text:
            if char < " ":
                raise ValueError(f"not understood: {char!r}")
            width = cell_len(char)
            if self._column + width > self._num_columns:
                self._column = 0
                self._next_row()
            line = self._lines[self._row]
            for place in range(width):
                line[self._column + place] = Cell("" if place else char, self._style)
            self._column += width

    def _next_row(self) -> None:
        """Go to the next row, with the cursor at its column: a terminal's driver sends CR LF."""
        self._row += 1
        if self._row == len(self._lines):
            self._lines = [*self._lines[1:], self._blank()]
            self._row -= 1

    def _control(self, numbers: str, final: str) -> None:
        first = int(numbers or 0) if numbers.isdigit() or not numbers else 0
        if final == "m":
            self._style = styled(self._style, [int(n or 0) for n in numbers.split(";")])
        elif final == "A":
            self._row = max(self._row - max(first, 1), 0)
        elif final == "H":
            row, _, column = numbers.partition(";")
            self._row, self._column = int(row or 1) - 1, int(column or 1) - 1
        elif (final, first) == ("K", 2):
            self._lines[self._row] = self._blank()
        elif (final, first) == ("K", 0):
            rest = self._num_columns - self._column
            self._lines[self._row][self._column :] = [BLANK] * rest
        elif (numbers, final) not in _IGNORED:
            raise ValueError(f"not understood: ESC [ {numbers} {final}")


def styled(style: Style, numbers: list[int]) -> Style:
    """Return the style after a sequence of graphic rendition. Raises ValueError."""
    codes = iter(numbers)
    for code in codes:
        if code == 0:
            style = PLAIN
        elif code == 1:
            style = replace(style, is_bold=True)
        elif code == 2:
            style = replace(style, is_dim=True)
        elif code == 3:
            style = replace(style, is_italic=True)
        elif 30 <= code <= 37:
            style = replace(style, colour=code - 30)
        elif 90 <= code <= 97:
            style = replace(style, colour=code - 90 + 8)
        elif code == 38 and next(codes, 0) == 5:
            style = replace(style, colour=next(codes, 0))
        elif code == 39:
            style = replace(style, colour=None)
        else:
            raise ValueError(f"not understood: rendition {code}")
    return style


def written(line: Line) -> str:
    """Return the output that writes a row: text, and a sequence where the style changes."""
    text, style = "", PLAIN
    cells = list(line)
    while cells and cells[-1] == BLANK:
        cells.pop()
    for cell in cells:
        if cell.style != style:
            style = cell.style
            text += _sequence(style)
        text += cell.text
    return text + ("" if style == PLAIN else _sequence(PLAIN))


def _sequence(style: Style) -> str:
    numbers = ["0"]
    numbers += ["1"] * style.is_bold + ["2"] * style.is_dim + ["3"] * style.is_italic
    if style.colour is not None:
        numbers.append(f"38;5;{style.colour}")
    return f"\x1b[{';'.join(numbers)}m"
