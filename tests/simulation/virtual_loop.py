"""An event loop whose clock jumps to the next timer when nothing is ready: seconds cost nothing."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop with a clock of its own, in seconds; `time.monotonic` shows it inside `run`."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 1000.0

    def time(self) -> float:
        """Return the virtual time."""
        return self._now_s

    def _run_once(self) -> None:
        loop: Any = self  # private parts of asyncio's own loop
        if not loop._ready:
            if not loop._scheduled:
                raise RuntimeError("the simulation waits for something that never comes")
            self._now_s = max(self._now_s, loop._scheduled[0]._when)
        loop_class: Any = asyncio.SelectorEventLoop
        loop_class._run_once(self)


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a simulation to its end, in virtual time."""
    loop = VirtualLoop()
    with _clock_of(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())


@contextmanager
def _clock_of(loop: VirtualLoop) -> Iterator[None]:
    with patch("time.monotonic", loop.time):
        yield
