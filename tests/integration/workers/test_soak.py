"""Many requests at once, some cancelled, some with broken transfers, in too little memory."""

from pathlib import Path

import pytest

from tests.integration.support.fated_requests import TIGHT, Plan
from tests.integration.support.in_process_workers import CHUNKS_OF_16, Workers, load_now
from tests.unit.common.engine.tiny_models import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_every_text_is_right_and_nothing_stays_held(model: Path, seed: int) -> None:
    plan = Plan(seed)
    expected = plan.run_undisturbed(model)
    with Workers(
        model, prefill_config=CHUNKS_OF_16, decode_config=TIGHT, wrap=plan.wrap
    ) as workers:
        plan.run(workers, expected)
        load = load_now(workers.decode)
        assert load.preemptions > 0
        assert load.prefill_fallbacks > load.kv_rejected > 0
