"""Marks by which a node's workers count each other; here one process has several descriptors."""

import fcntl
from pathlib import Path
from typing import TextIO

import pytest
from structlog.testing import capture_logs

from common.kv_transfer import ray_store
from common.kv_transfer.ray_store import RayNodeStore, _is_locked, _lock, _mark_name
from pdserve.errors import SetupError


def test_a_mark_that_nobody_has_is_removed_and_one_that_somebody_has_stays(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    mark = _lock(path)
    assert _is_locked(path)
    assert path.exists()
    mark.close()
    assert not _is_locked(path)
    assert not path.exists()
    assert not _is_locked(path)


def test_two_that_ask_at_once_take_each_other_for_no_owner(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    path.touch()
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not _is_locked(path)
        assert path.exists()


def test_a_mark_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock = tmp_path / "worker", fcntl.flock
    paths = [path]

    def remove_first(file: TextIO, flags: int) -> None:
        while paths:
            paths.pop().unlink()
        flock(file, flags)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with _lock(path):
        assert _is_locked(path)


def test_a_process_does_not_wait_for_one_that_hangs_under_its_name(tmp_path: Path) -> None:
    before, now = (tmp_path / _mark_name("pdserve", "decode-0", pid) for pid in (7, 8))
    with _lock(before), _lock(now):
        assert _is_locked(before)
        assert _is_locked(now)


class _Failing(RayNodeStore):
    def __init__(self, mark: TextIO) -> None:
        self._mark = mark
        self.num_asked = 0

    def _refresh(self) -> None:
        self.num_asked += 1
        if self.num_asked == 3:
            self._mark.close()
        raise ValueError("an answer that nobody expected")


def test_no_error_ends_the_refreshing_and_it_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_store, "_REFRESH_S", 0.001)
    store = _Failing((tmp_path / "worker").open("w"))
    with capture_logs() as logs:
        store._run()
    assert store.num_asked == 3
    assert [line["event"] for line in logs] == ["node_store_unknown"]


class _SlowAtFirst(RayNodeStore):
    def __init__(self, num_failures: int) -> None:
        self.num_asked, self._num_failures = 0, num_failures

    def _refresh(self) -> None:
        self.num_asked += 1
        if self.num_asked <= self._num_failures:
            raise ValueError("deadline\nexceeded")


def test_a_raylet_that_is_slow_at_the_start_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_store, "_AGAIN_S", 0.0)
    store = _SlowAtFirst(num_failures=2)
    store._refresh_at_last()
    assert store.num_asked == 3


def test_a_raylet_that_never_answers_is_given_up_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_store, "_AGAIN_S", 0.0)
    monkeypatch.setattr(ray_store, "_ANSWER_WITHIN_S", 0.01)
    with pytest.raises(SetupError, match=r"raylet .* does not answer: deadline exceeded") as caught:
        _SlowAtFirst(num_failures=10**9)._refresh_at_last()
    assert "\n" not in str(caught.value)
