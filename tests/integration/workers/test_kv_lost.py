"""KV that does not come is reported as lost where it was wanted, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.messages import SamplingParams
from tests.integration.support.in_process_workers import Workers, load_now, until
from tests.integration.support.kv_faults import Gate, end_at, held_engine, hold_at, meddle
from tests.unit.common.engine.tiny_models import save_model

PROMPT = list(range(3, 19))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def kv_lost(logs: list[Any]) -> list[Any]:
    return [entry for entry in logs if entry["event"] == "kv_lost"]


def test_kv_that_is_not_wanted_any_more_is_not_lost(model: Path) -> None:
    """Token 1 is the last, so that no KV follows; the engine sees both at once."""
    gate = Gate()
    with capture_logs() as logs, Workers(model, wrap=meddle(hold_at(0, gate))) as workers:
        workers.submit("r", PROMPT, SamplingParams(0.0, 0, max_tokens=1))
        gate.wait_reached()
        with held_engine(workers.decode):
            gate.open()
            arrivals = workers.decode._engine._inbox._arrivals
            until(lambda: arrivals.qsize() == 2, "told of token 1 and of the end")
        assert len(workers.answers.finished("r").tokens) == 1
        workers.check_at_rest()
        assert load_now(workers.decode).prefill_fallbacks == 0
    assert not kv_lost(logs)


def test_kv_that_is_lost_is_said_to_be(model: Path) -> None:
    with capture_logs() as logs, Workers(model, wrap=meddle(end_at(0))) as workers:
        workers.submit("r", PROMPT, SamplingParams(0.0, 0, max_tokens=2))
        assert len(workers.answers.finished("r").tokens) == 2
        assert load_now(workers.decode).prefill_fallbacks == 1
    (entry,) = kv_lost(logs)
    assert (entry["request_id"], "ended early" in entry["error"]) == ("r", True)
