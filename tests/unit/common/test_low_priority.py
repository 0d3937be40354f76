"""Threads of low priority; the system keeps a policy and a number for each."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from common.low_priority import run_at_low_priority
from tests.patience import WITHIN_S

BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile True: pass"


def place() -> tuple[int, int]:
    """Return the calling thread's policy and number: the greater that is, the lower its priority."""
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture
def taken_core() -> Iterator[None]:
    """Leave this thread, and those that it starts, a core that others want all the time."""
    before = os.sched_getaffinity(0)
    core = min(before)
    command = (sys.executable, "-c", BUSY, str(core))
    busy = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in busy:
            assert process.stdout is not None
            process.stdout.readline()
        os.sched_setaffinity(0, {core})
        yield
    finally:
        os.sched_setaffinity(0, before)
        for process in busy:
            process.kill()
            process.communicate()


def test_only_the_work_has_a_low_priority() -> None:
    policy, nice = place()
    # which one depends on what the machine does meanwhile
    assert run_at_low_priority(place, WITHIN_S) in {
        (os.SCHED_IDLE, nice),
        (policy, max(nice, 5)),
    }
    assert place() == (policy, nice)


def test_work_where_others_leave_no_room_gets_its_share_of_a_core(taken_core: None) -> None:
    policy, nice = place()
    assert run_at_low_priority(place, WITHIN_S) == (policy, max(nice, 5))


def test_work_that_gets_a_core_at_once_leaves_it_to_others_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.low_priority._ROOM", 0.0)
    policy, _ = run_at_low_priority(place, WITHIN_S)
    assert policy == os.SCHED_IDLE


@pytest.mark.parametrize("room", [0.0, 2.0])
def test_an_error_is_raised_where_the_work_was_asked_for(
    room: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.low_priority._ROOM", room)
    with pytest.raises(ZeroDivisionError):
        run_at_low_priority(lambda: 1 // 0, WITHIN_S)


def test_a_system_that_refuses_does_the_work_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    before = place()
    assert run_at_low_priority(place, WITHIN_S) == before
