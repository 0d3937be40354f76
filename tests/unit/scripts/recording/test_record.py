"""A recorded command: its screens from one text to another, and Enter pressed in the end."""

import sys
from pathlib import Path

import pytest

from scripts.recording.cast import Frame, frames, read, write
from scripts.recording.record import Plan, record
from tests.patience import WITHIN_S

# waits for what it shows to be seen: the terminal's driver echoes nothing meanwhile
SHOWS = """
import time
print("before")
print("it is ready", flush=True)
for number in range(10_000):
    print(f"\\rnumber {number}", end="", flush=True)
    if number == 3:
        print("\\npress Enter", flush=True)
        break
    time.sleep(0.03)
input()
"""
PLAN = Plan(20, 5, "ready", "press Enter", frame_s=0.01, limit_s=WITHIN_S)


def shown(frame: Frame) -> str:
    lines = ("".join(cell.text for cell in line).rstrip() for line in frame.lines)
    return "\n".join(lines).rstrip("\n")


def test_a_recording_is_written_and_read_back_as_the_same_screens(tmp_path: Path) -> None:
    cast = record([sys.executable, "-c", SHOWS], "a title", PLAN)
    write(cast, tmp_path / "a.cast")
    found = frames(read(tmp_path / "a.cast"))
    texts = [shown(frame) for frame in found]
    assert texts[0].startswith("before\nit is ready")
    assert texts[-1] == "before\nit is ready\nnumber 3\npress Enter"
    times_s = [frame.at_s for frame in found]
    assert times_s[0] == 0.0
    assert times_s == sorted(times_s)


def test_a_command_that_ends_early_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended before"):
        record([sys.executable, "-c", "print('it is ready')"], "a title", PLAN)
