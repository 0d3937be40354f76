"""Threads of low priority; the system keeps a number for each."""

import os
import threading

import pytest

from common.low_priority import run_at_low_priority
from tests.patience import WITHIN_S


def nice() -> int:
    """Return the calling thread's number: the greater, the lower its priority."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_only_the_work_has_a_low_priority() -> None:
    before = nice()
    assert run_at_low_priority(nice, WITHIN_S) == max(before, 5)
    assert nice() == before


def test_an_error_is_raised_where_the_work_was_asked_for() -> None:
    with pytest.raises(ZeroDivisionError):
        run_at_low_priority(lambda: 1 // 0, WITHIN_S)


def test_a_system_that_refuses_does_the_work_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, who: int, priority: int) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "setpriority", refuse)
    before = nice()
    assert run_at_low_priority(nice, WITHIN_S) == before
