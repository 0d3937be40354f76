import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from common import failpoints
from common.worker import step_faults
from common.worker.step_faults import with_step_faults
from pdserve.errors import SetupError


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    failpoints.active.cache_clear()
    yield
    failpoints.active.cache_clear()


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, request.param)


def step() -> bool:
    return True


def test_none_is_active_by_default() -> None:
    assert failpoints.VARIABLE not in os.environ
    assert failpoints.active() == {}
    failpoints.check()
    assert all(failpoints.value(name) is None for name in failpoints.KNOWN)
    assert with_step_faults("decode-0", step) is step


def test_code_cannot_ask_for_a_failpoint_that_is_not_listed() -> None:
    with pytest.raises(KeyError):
        failpoints.value("unlisted")


@pytest.mark.parametrize("named", ["slow_steps=decode-0:1,typo=2"], indirect=True)
def test_an_unknown_name_is_an_error_that_lists_the_known(named: None) -> None:
    with pytest.raises(SetupError, match=r"names typo\. known are abort_at_start, "):
        failpoints.check()


@pytest.mark.parametrize(
    "named", ["exit_at_step=decode-0:3,hang_at_step=decode-1:2"], indirect=True
)
def test_a_worker_fails_behind_the_step_before_the_named_one(named: None) -> None:
    assert with_step_faults("prefill-0", step) is step
    for worker, num_steps in (("decode-0", 2), ("decode-1", 1)):
        failed: list[str] = []
        with (
            patch.object(step_faults, "_die", lambda: failed.append("decode-0")),  # noqa: B023
            patch.object(step_faults, "_hang", lambda: failed.append("decode-1")),  # noqa: B023
        ):
            faulty = with_step_faults(worker, step)
            idle = with_step_faults(worker, lambda: False)
        for _ in range(5):
            assert idle() is False
        for number in range(1, num_steps + 1):
            assert failed == []
            assert faulty(), number
        assert failed == [worker]


@pytest.mark.parametrize("named", ["slow_steps=*:0.02"], indirect=True)
def test_a_star_names_every_worker(named: None) -> None:
    assert failpoints.value_for("slow_steps", "decode-0") == "0.02"
    assert failpoints.value_for("slow_steps", "prefill-3") == "0.02"
    assert failpoints.value_for("exit_at_step", "decode-0") is None
