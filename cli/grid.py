"""Tables of the commands, in which no name is ever cut.

A grid that is too wide leaves out columns by their rank, and says which. Where the columns that
stay are too wide as well, each row becomes lines of "heading: value".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

Cell = str | Text
_NO_BREAKS = str.maketrans("\t\n\r", "   ")


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Rank 0 is never left out; of the others the highest rank goes first."""

    heading: str
    rank: int = 0
    is_number: bool = False
    wraps: bool = False  # at spaces; columns of names do not
    style: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row, with a cell per column."""

    cells: Sequence[Cell]
    style: str = ""
    ends_section: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """Table that fits itself to the width of its console."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    title: Cell = ""
    caption: str = ""
    box: Box | None = None

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the table, or records where it does not fit."""
        kept = columns_within(self, options.max_width)
        if kept is None:
            yield from _records(self)
            return
        yield _table(self, kept)
        if left_out := [c.heading or "bars" for i, c in enumerate(self.columns) if i not in kept]:
            yield Text(f"not shown at this width: {', '.join(left_out)}", style="dim")


def plain_lines(grid: Grid) -> Iterator[str]:
    """Yield one line per row: all cells, separated by tabs; a dash stands for an empty one."""
    for row in grid.rows:
        yield "\t".join(str(cell).translate(_NO_BREAKS) or "-" for cell in row.cells)


def columns_within(grid: Grid, width: int) -> list[int] | None:
    """Return the indices of the columns that fit into so many characters; None if none do."""
    widths = [_min_width(grid, index) for index in range(len(grid.columns))]
    per_column, edges = (3, 1) if grid.box else (1, 0)  # padding and dividers of a rich Table
    kept = list(range(len(widths)))
    while sum(widths[index] + per_column for index in kept) + edges > width:
        dropped = max(kept, key=lambda index: grid.columns[index].rank)
        if grid.columns[dropped].rank == 0:
            return None
        kept.remove(dropped)
    return kept


def _min_width(grid: Grid, index: int) -> int:
    """Return the least width at which no word is cut, or no cell if the column does not wrap."""
    texts = [grid.columns[index].heading, *(str(row.cells[index]) for row in grid.rows)]
    if grid.columns[index].wraps:
        texts = [word for text in texts for word in text.split()]
    return max(map(cell_len, texts), default=0)


def _table(grid: Grid, kept: Sequence[int]) -> Table:
    padding = (0, 1) if grid.box else (0, 1, 0, 0)
    table = Table(
        box=grid.box,
        padding=padding,
        title=grid.title or None,
        title_justify="left",
        title_style="",
    )
    if grid.caption:
        table.caption, table.caption_justify = grid.caption, "left"
    for column in (grid.columns[index] for index in kept):
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            no_wrap=not column.wraps,
            overflow="fold",
            style=column.style,
        )
    for row in grid.rows:
        cells = [_text(row.cells[index]) for index in kept]
        table.add_row(*cells, style=row.style, end_section=row.ends_section)
    return table


def _records(grid: Grid) -> Iterator[Text]:
    if grid.title:
        yield _text(grid.title)
    for row in grid.rows:
        for column, cell in zip(grid.columns, row.cells, strict=True):
            if str(cell):
                yield Text(f"{column.heading}: ", style="bold") + _text(cell)
        yield Text("")


def _text(cell: Cell) -> Text:
    """Return a cell as a text, so that brackets in names are no markup."""
    return cell if isinstance(cell, Text) else Text(cell)
