"""Columns of progress bars, with a clock that the test sets."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TaskID

from cli.progress_columns import EndColumn, RateColumn


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def shown(progress: Progress, task: TaskID) -> tuple[str, str]:
    """Return the rate and the end of a task."""
    (found,) = (each for each in progress.tasks if each.id == task)
    return str(RateColumn().render(found)), str(EndColumn().render(found))


def progress_on(clock: Clock) -> Progress:
    console = Console(file=io.StringIO())
    return Progress(console=console, get_time=clock, auto_refresh=False)


@pytest.mark.parametrize(
    ("total", "amount", "rate", "left"),
    [
        (100_000_000, 2_000_000, "2.0 MB/s", "0:47 left"),
        (20_000, 1, "1/s", "5:33:17 left"),
    ],
)
def test_work_with_a_known_size_has_a_rate_and_an_end(
    total: int, amount: int, rate: str, left: str
) -> None:
    clock = Clock()
    progress = progress_on(clock)
    task = progress.add_task("work", total=total)
    for _ in range(3):
        progress.advance(task, amount)
        clock.now_s += 1
    assert shown(progress, task) == (rate, left)
    clock.now_s += 100
    progress.update(task, completed=total)
    clock.now_s += 100
    assert shown(progress, task)[1] == "1:43"  # what it took, however long ago


def test_work_of_unknown_size_shows_the_time_it_took() -> None:
    clock = Clock()
    progress = progress_on(clock)
    task = progress.add_task("compile", total=None)
    clock.now_s += 75
    progress.advance(task, 1)
    assert shown(progress, task) == ("", "1:15")
