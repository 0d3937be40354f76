"""Calls of kernels that a step makes, kept to be made again with the same arrays.

Finding a kernel's arrays takes Python as long as a kernel with one row runs: a step of few rows on a CPU was
Python for a third of its time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

Call = Callable[[], object]


class Recorder:
    """Maker of calls, which notes each one while it records."""

    def __init__(self) -> None:
        self._calls: list[Call] | None = None

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call the function; its arguments must say the same in every step that repeats the call."""
        if self._calls is not None:
            self._calls.append(partial(function, *args))
        function(*args)

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """Note the calls that are made within, in order."""
        calls: list[Call] = []
        self._calls = calls
        try:
            yield calls
        finally:
            self._calls = None
