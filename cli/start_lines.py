"""A start on the terminal: a line for all that is over, and what runs now, where somebody watches."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class StartLines:
    """deploy.starting.StartReport on stderr."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status

    def now(self, text: str) -> None:
        """Show it beside a spinner; nothing where stderr is no terminal."""
        self._status.update(text)

    def done(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the spinner away."""
        self._status.stop()


@contextmanager
def start_lines() -> Iterator[StartLines]:
    """Where a start is told, and the spinner while it lasts."""
    console = Console(stderr=True)
    with console.status("starting") as status:
        yield StartLines(console, status)
