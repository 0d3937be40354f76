import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from common import failpoints
from common.engine.batch import Batch, BatchEntry
from common.engine.raising import KillingModel, RaisingModel, with_failpoint
from tests.unit.common.engine.breaking import with_model
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.decode_worker.driven_engine import tiny_engine


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Activate the failpoint, as in a process that was started with it."""
    monkeypatch.setenv("PDSERVE_FAILPOINTS", "abort_at_start=,step_raises_on_token=77")
    failpoints.active.cache_clear()
    yield
    failpoints.active.cache_clear()


def test_a_model_is_left_as_it_is_where_no_failpoint_is_named() -> None:
    model = tiny_engine().runner._model
    assert with_failpoint(model) is model


def test_a_named_one_raises_where_its_token_is_run(active: None) -> None:
    engine = with_model(tiny_engine(), with_failpoint)
    assert isinstance(engine.runner._model, RaisingModel)
    for prompt, raises in (([1, 77, 2], True), ([1, 7, 2], False)):
        seq = hold(engine.pool, make_sequence(prompt))
        batch = Batch((BatchEntry(seq, 3),))
        if raises:
            with pytest.raises(RuntimeError, match="step_raises_on_token"):
                engine.runner.run(batch)
        else:
            assert len(engine.runner.run(batch)) == 1
        engine.pool.release(seq.block_table)


def test_a_worker_is_killed_where_its_token_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *args: killed.append(args))
    engine = with_model(tiny_engine(), lambda model: KillingModel(model, 77))
    for prompt, kills in (([1, 7, 2], []), ([1, 77, 2], [(os.getpid(), signal.SIGKILL)])):
        seq = hold(engine.pool, make_sequence(prompt))
        engine.runner.run(Batch((BatchEntry(seq, 3),)))
        assert killed == kills
        engine.pool.release(seq.block_table)


def test_the_environment_is_read_where_a_process_starts() -> None:
    code = "from common import failpoints as f; print(f.value('abort_at_start'), f.value('slow_steps'))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PDSERVE_FAILPOINTS": "abort_at_start=x=y,other=1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["x=y", "None"]
