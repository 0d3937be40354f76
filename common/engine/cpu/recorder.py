"""Recorder: calls that a step makes go to their functions, or into a program that makes them later."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.engine.cpu.program import Program


class Recorder:
    """Maker of calls, which only notes them while it records."""

    def __init__(self) -> None:
        self._program: Program | None = None

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call the function, or note the call, whose arguments must say the same whenever it is repeated."""
        if self._program is None:
            function(*args)
        else:
            self._program.add(function, *args)

    @contextmanager
    def recording(self, program: Program) -> Iterator[None]:
        """Add the calls of what is done within to a program, in order, and make none."""
        self._program = program
        try:
            yield
        finally:
            self._program = None
