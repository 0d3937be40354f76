import pytest

from common import failpoints
from deploy.versions import check_router, check_versions, read_versions
from pdserve.errors import SetupError

OURS = {"Python": "3.12", "pdserve": "0.1.0", "ray": "2.60.0", "torch": "2.13.0"}


def test_what_runs_here_is_known_without_its_build() -> None:
    versions = read_versions()
    assert list(versions) == list(OURS)
    assert all(versions.values())
    assert "+" not in versions["torch"]
    check_versions("worker decode-0", versions, read_versions())


@pytest.mark.parametrize("name", list(OURS))
def test_a_difference_names_both_sides(name: str) -> None:
    theirs = {**OURS, name: "0.0"}
    said = f"worker decode-1 on host has {name} 0.0, the deployment has {OURS[name]}"
    with pytest.raises(SetupError, match=said):
        check_versions("worker decode-1 on host", theirs, OURS)


def test_what_a_node_lacks_is_named() -> None:
    with pytest.raises(SetupError, match=r"has torch missing, the deployment has 2\.13\.0"):
        check_versions("worker decode-1", {k: v for k, v in OURS.items() if k != "torch"}, OURS)


def test_a_router_needs_no_torch() -> None:
    check_router({**read_versions(), "torch": "0.0"})
    with pytest.raises(SetupError, match=r"^this machine has pdserve .*, the deployment has 9\.9"):
        check_router({**read_versions(), "pdserve": "9.9"})


def test_a_worker_of_a_failpoint_says_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "active", lambda: {"other_torch": "decode-1:0.0"})
    assert read_versions("decode-1")["torch"] == "0.0"
    assert read_versions("decode-0") == read_versions()
