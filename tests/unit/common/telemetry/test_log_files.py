import fcntl
from pathlib import Path

import pytest

from common.telemetry.log_files import (
    default_log_dir,
    log_files,
    new_log_name,
    newest_of,
    prune,
    tail,
)


def write(folder: Path, worker: str, *names: str) -> list[Path]:
    (folder / worker).mkdir(parents=True, exist_ok=True)
    paths = [folder / worker / f"{name}.log" for name in names]
    for path in paths:
        path.write_text(f"{path.stem}\n")
    return paths


def test_the_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_log_dir() == tmp_path / "pdserve" / "logs"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_log_dir() == Path.home() / ".local" / "state" / "pdserve" / "logs"


def test_files_come_by_worker_and_the_newest_first(tmp_path: Path) -> None:
    write(tmp_path, "prefill-0", "20260101T000000-aa")
    write(tmp_path, "decode-0", "20260101T000000-bb", "20260102T000000-00")
    found = [(log.worker, log.path.stem) for log in log_files(tmp_path)]
    assert found == [
        ("decode-0", "20260102T000000-00"),
        ("decode-0", "20260101T000000-bb"),
        ("prefill-0", "20260101T000000-aa"),
    ]
    newest = newest_of(tmp_path, "decode-0")
    assert newest is not None
    assert newest.path.stem == "20260102T000000-00"
    assert newest_of(tmp_path, "decode-1") is None
    assert log_files(tmp_path / "no such namespace") == []


def test_names_of_two_starts_in_one_second_differ() -> None:
    assert len({new_log_name() for _ in range(20)}) > 15


def test_the_newest_five_are_kept_and_whatever_is_written(tmp_path: Path) -> None:
    paths = write(tmp_path, "decode-0", *(f"2026010{day}T000000-00" for day in range(1, 9)))
    with paths[0].open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [log.is_written for log in log_files(tmp_path)] == [False] * 7 + [True]
        prune(tmp_path / "decode-0")
    left = sorted((tmp_path / "decode-0").iterdir())
    assert left == [paths[0], *paths[3:]]


def test_a_tail_is_the_last_lines_and_where_they_end(tmp_path: Path) -> None:
    path = tmp_path / "some.log"
    path.write_bytes(b"eins\nzwei\ndrei\n")
    assert tail(path, 2) == (["zwei", "drei"], 15)
    assert tail(path, 0) == ([], 15)
    assert tail(path, 9).lines == ["eins", "zwei", "drei"]
    assert tail(path, 9, max_bytes=7).lines == ["i", "drei"]
    path.write_bytes(b"\xff broken\nno end")
    assert tail(path, 9).lines == ["\N{REPLACEMENT CHARACTER} broken", "no end"]
    path.write_bytes(b"")
    assert tail(path, 9) == ([], 0)
