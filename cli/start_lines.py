"""Progress of a start on the terminal: a line per finished stage, and a live line."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class StartLines:
    """Implementation of deploy.starting.StartReport on stderr."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status

    def now(self, text: str) -> None:
        """Show this text beside a spinner; print nothing if stderr is no terminal."""
        self._status.update(text)

    def done(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Remove the spinner."""
        self._status.stop()


@contextmanager
def start_lines() -> Iterator[StartLines]:
    """Yield a report of a start on stderr, with a spinner while the block runs."""
    console = Console(stderr=True)
    with console.status("starting") as status:
        yield StartLines(console, status)
