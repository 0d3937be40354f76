"""Records a command in a terminal of its own: the screen, a few times a second, without stderr."""

import codecs
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fcntl import ioctl

from scripts.recording.cast import Cast, changes
from scripts.recording.screen import Line, Screen

_READ_BYTES = 65536
_ENTER = b"\r"


@dataclass(frozen=True, slots=True)
class Plan:
    """A recording's size and ends: it begins and ends with the screen that has this text first."""

    num_columns: int
    num_rows: int
    begin: str
    end: str
    frame_s: float = 0.25
    limit_s: float = 300.0


@dataclass(slots=True)
class _Recording:
    plan: Plan
    start_s: float | None = None
    shown: tuple[Line, ...] = ()
    events: list[tuple[float, str]] = field(default_factory=list)

    def look(self, screen: Screen, now_s: float) -> bool:
        """Take the screen as it is; return True after the last one."""
        text = screen.text()
        if self.start_s is None:
            if self.plan.begin not in text:
                return False
            self.start_s, blank = now_s, Screen(self.plan.num_columns, self.plan.num_rows)
            self.shown = blank.lines()
        lines = screen.lines()
        if lines != self.shown:
            self.events.append((now_s - self.start_s, changes(self.shown, lines)))
            self.shown = lines
        return self.plan.end in text


def record(command: Sequence[str], title: str, plan: Plan) -> Cast:
    """Run a command to the end of the plan, then press Enter in it and wait for its end.

    Raises TimeoutError after the plan's limit, and RuntimeError if the command ends before.
    """
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", plan.num_rows, plan.num_columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": ""}
    process = subprocess.Popen(  # noqa: S603 - a command of our own
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    recording = _Recording(plan)
    try:
        _watch(ours, recording, time.monotonic() + plan.limit_s)
        os.write(ours, _ENTER)
        _drain(ours, process, time.monotonic() + plan.limit_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(plan.limit_s)
        os.close(ours)
    return Cast(plan.num_columns, plan.num_rows, title, tuple(recording.events))


def _watch(terminal: int, recording: _Recording, deadline_s: float) -> None:
    plan = recording.plan
    screen, decoder = (
        Screen(plan.num_columns, plan.num_rows),
        codecs.getincrementaldecoder("utf-8")(),
    )
    next_s = time.monotonic()
    while time.monotonic() < deadline_s:
        if select.select([terminal], [], [], max(next_s - time.monotonic(), 0))[0]:
            screen.feed(decoder.decode(_read(terminal)))
        if time.monotonic() >= next_s:
            next_s += plan.frame_s
            if recording.look(screen, time.monotonic()):
                return
    raise TimeoutError(f"{plan.end!r} was not seen within {plan.limit_s:g} s")


def _read(terminal: int) -> bytes:
    try:
        found = os.read(terminal, _READ_BYTES)
    except OSError:  # Linux's word for an end
        found = b""
    if not found:
        raise RuntimeError("the command ended before the recording")
    return found


def _drain(terminal: int, process: "subprocess.Popen[bytes]", deadline_s: float) -> None:
    """Read on until the command has ended, so that it never waits for the terminal."""
    while process.poll() is None:
        if time.monotonic() > deadline_s:
            raise TimeoutError("the command does not end")
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                os.read(terminal, _READ_BYTES)
            except OSError:
                process.wait(max(deadline_s - time.monotonic(), 0.1))
