import subprocess
import sys
from pathlib import Path

import pytest

from common.engine.weights import cache
from common.engine.weights.cache import find, publish
from common.engine.weights.progress import NoProgress
from pdserve.errors import SetupError
from tests.patience import WITHIN_S

REPOSITORY = Path(cache.__file__).parents[3]
# Says when it builds and when it waits; builds until a line arrives on stdin.
PUBLISHER = """
import sys
from pathlib import Path
from common.engine.weights.cache import publish

class Told:
    def stage(self, name, total): print("waiting", flush=True)
    def advance(self, amount): pass

def build(work):
    print("building", flush=True)
    sys.stdin.readline()
    (work / "model").mkdir()
    return work / "model"

print(publish(Path(sys.argv[1]), "entry", build, Told()).name, flush=True)
"""


def start_publisher(cache_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(cache_dir)],
        cwd=REPOSITORY,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def read_line(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        raise ValueError("started without a pipe")
    return process.stdout.readline().strip()


def build_small(work: Path) -> Path:
    model = work / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return model


def build_and_die(work: Path) -> Path:
    build_small(work)
    raise RuntimeError("died midway")


def test_the_built_folder_appears_under_its_name_and_the_work_folder_goes(tmp_path: Path) -> None:
    path = publish(tmp_path, "entry", build_small, NoProgress())
    assert path == tmp_path / "entry"
    assert (path / "config.json").read_text() == "{}"
    assert {item.name for item in tmp_path.iterdir()} == {"entry", ".entry.lock"}


def test_an_entry_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    first = publish(tmp_path, "entry", build_small, NoProgress())
    assert publish(tmp_path, "entry", build_and_die, NoProgress()) == first


def test_a_build_that_dies_midway_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="died midway"):
        publish(tmp_path, "entry", build_and_die, NoProgress())
    assert [item.name for item in tmp_path.iterdir()] == [".entry.lock"]
    assert publish(tmp_path, "entry", build_small, NoProgress()).is_dir()


def test_two_processes_at_once_build_once_and_both_get_the_result(tmp_path: Path) -> None:
    with start_publisher(tmp_path) as first:
        assert read_line(first) == "building"
        with start_publisher(tmp_path) as second:
            assert read_line(second) == "waiting"
            assert first.communicate("go\n", timeout=WITHIN_S)[0] == "entry\n"
            assert second.communicate(timeout=WITHIN_S)[0] == "entry\n"


def test_a_killed_process_leaves_no_entry_and_its_work_folder_is_cleaned(tmp_path: Path) -> None:
    with start_publisher(tmp_path) as process:
        assert read_line(process) == "building"
        process.kill()
    assert find(tmp_path, "entry") is None
    assert list(tmp_path.glob(".entry.work-*"))
    publish(tmp_path, "entry", build_small, NoProgress())
    assert not list(tmp_path.glob(".entry.work-*"))


def test_waiting_for_the_lock_ends_at_its_deadline(tmp_path: Path) -> None:
    def build(work: Path) -> Path:
        with pytest.raises(SetupError, match="another process has held"):
            publish(tmp_path, "entry", build_small, NoProgress(), lock_deadline_s=0)
        return build_small(work)

    assert publish(tmp_path, "entry", build, NoProgress()).is_dir()


def test_a_cache_that_cannot_be_written_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot fill the model cache") as caught:
        publish(tmp_path / "file" / "cache", "entry", build_small, NoProgress())
    assert "\n" not in str(caught.value)
