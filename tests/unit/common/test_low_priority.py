"""Threads of low priority; the system keeps a policy and a number for each."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from common import low_priority
from common.low_priority import (
    CpuTimes,
    Starvation,
    StarvedError,
    run_at_low_priority,
    run_beside_others,
)
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


def test_work_where_others_leave_no_room_gets_its_share_of_a_core(
    taken_core: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_priority, "_TRIES_S", 1.0)
    policy, nice = place()
    assert run_at_low_priority(place, WITHIN_S) == (policy, max(nice, 5))


def test_work_that_must_not_wait_for_room_has_its_share_at_once(taken_core: None) -> None:
    policy, nice = place()
    assert run_beside_others(place, WITHIN_S) == (policy, max(nice, 5))
    assert place() == (policy, nice)


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


@pytest.mark.parametrize(
    ("looks", "seen"),
    [
        ([(0.9, 14.0)], [False]),  # too short to tell
        ([(0.5, 7.0), (1.4, 14.0)], [False, True]),  # a tenth of 15.4 s is more
        ([(0.5, 7.0), (1.6, 14.0)], [False, False]),
        ([(15.0, 0.0), (15.5, 14.6)], [False, True]),  # others came when it had run for 15 s
        ([(15.0, 0.0), (15.0, 0.0)], [False, False]),  # it waits for a disk, or for nothing
    ],
)
def test_a_thread_starves_that_gets_less_than_a_tenth_of_what_it_wants(
    looks: list[tuple[float, float]], seen: list[bool]
) -> None:
    starvation = Starvation(CpuTimes(0.0, 0.0))
    assert [starvation.is_seen(CpuTimes(*look)) for look in looks] == seen


def test_work_is_given_up_where_others_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    times, end = iter([CpuTimes(1.0, 0.0), CpuTimes(1.1, 20.0)]), threading.Event()
    monkeypatch.setattr(low_priority, "_ROOM", 0.0)
    monkeypatch.setattr(low_priority, "_LOOK_S", 0.01)
    monkeypatch.setattr(low_priority, "_read_times", lambda _: next(times))
    with pytest.raises(StarvedError):
        run_at_low_priority(lambda: end.wait(WITHIN_S), WITHIN_S)
    end.set()


def test_a_threads_times_are_read() -> None:
    begun_s = time.thread_time()
    while (now_s := time.thread_time()) - begun_s < 0.05:
        pass
    read = low_priority._read_times(threading.get_native_id())
    assert read == CpuTimes(0.0, 0.0) or read.ran_s >= now_s - 0.02
    assert low_priority._read_times(0) == CpuTimes(0.0, 0.0)
