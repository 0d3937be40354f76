"""The screen of a terminal: it shows what `rich` writes, and refuses what it does not know."""

import io

import pytest
from rich.console import Console
from rich.live import Live
from rich.panel import Panel

from scripts.recording.screen import PLAIN, Screen, Style, written


def of_lines(output: str, num_columns: int = 20, num_rows: int = 6) -> list[str]:
    screen = Screen(num_columns, num_rows)
    screen.feed(output.replace("\n", "\r\n"))  # as a terminal's driver does
    return screen.text().split("\n")


def test_a_live_picture_of_rich_stands_as_it_was_last() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=20, height=6, color_system="256")
    with Live(Panel("one"), console=console, auto_refresh=False) as live:
        live.update(Panel("two\nthree", border_style="grey42"), refresh=True)
        live.update(Panel("four"), refresh=True)
    expected = ["╭──────────────────╮", "│ four             │", "╰──────────────────╯"]
    assert of_lines(file.getvalue())[:3] == expected


def test_it_scrolls_and_a_long_line_goes_on_in_the_next_row() -> None:
    assert of_lines("a\nbcdef\ng", num_columns=3, num_rows=3) == ["bcd", "ef", "g"]


def test_a_sequence_may_come_in_pieces() -> None:
    screen = Screen(4, 1)
    for piece in ("a\x1b", "[1;3", "8;5;242mb", "\x1b[0mc"):
        screen.feed(piece)
    assert [cell.text for cell in screen.lines()[0]] == ["a", "b", "c", " "]
    styles = [cell.style for cell in screen.lines()[0]]
    assert styles == [PLAIN, Style(242, is_bold=True), PLAIN, PLAIN]


def test_a_written_row_is_read_back_as_it_was() -> None:
    screen, again = Screen(12, 1), Screen(12, 1)
    screen.feed("a \x1b[31mred\x1b[0m \x1b[2;92m日本\x1b[39m")
    again.feed(written(screen.lines()[0]))
    assert again.lines() == screen.lines()
    assert again.text() == "a red 日本"


@pytest.mark.parametrize(
    "output", ["\x1b[5n", "\x1b[48;5;1m", "\x1b]0;title\x07 and more text", "\b"]
)
def test_what_is_not_understood_is_an_error(output: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        Screen(40, 2).feed(output)
