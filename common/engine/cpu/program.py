"""Program: calls that a step makes, of kernels and of others, to be made again."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numba.core.dispatcher import Dispatcher

from common.engine.cpu.jit import Compiled, kernel
from common.engine.cpu.tape import record, run_notes
from common.engine.cpu.team import name_team, run_in_team

_Call = Callable[[], object]


@cache
def _runner() -> Compiled:
    """Return the kernel that runs notes."""
    return runner_by(run_in_team) if name_team() else runner_by(run_notes)


def runner_by(run_all: Compiled) -> Compiled:
    """Compile the kernel that runs the notes between two addresses by an intrinsic."""

    @kernel(signature="void(intp, intp)", variant=run_all.__name__)
    def run(first, end):  # type: ignore[no-untyped-def]
        if run_all(first, end):
            raise MemoryError("a kernel's part failed")

    return run


class Program:
    """Calls in their order; those of kernels that follow one another are one call of native code."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._notes = bytearray()
        self._held: list[object] = []  # what the notes have addresses of

    def add(self, function: Callable[..., object], *args: object) -> None:
        """Add a call, and do not make it. A kernel must do all its work in parallel, on its arguments."""
        if isinstance(function, Dispatcher):
            self._notes += record(function, args)
            self._held += function, args
        else:
            self._end_notes()
            self._calls.append(partial(function, *args))

    def run(self) -> None:
        """Make all calls."""
        self._end_notes()
        for call in self._calls:
            call()

    def _end_notes(self) -> None:
        if self._notes:
            notes = np.frombuffer(bytes(self._notes), np.uint64).copy()
            self._held.append(notes)
            first = notes.ctypes.data
            self._calls.append(partial(_runner(), first, first + notes.nbytes))
            self._notes.clear()
