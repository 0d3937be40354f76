"""Models whose keys differ from their values, or whose layers differ: hand-off and preemption."""

from pathlib import Path

import pytest

from common.engine.memory.kv_cache import kv_layout
from common.engine.weights.config_file import read_config
from common.messages import SamplingParams
from tests.integration.support.eight_prompts import PROMPTS, run_under_pressure, run_undisturbed
from tests.integration.support.in_process_workers import (
    PREFILL,
    Workers,
    load_now,
)
from tests.unit.common.engine.tiny_models import (
    continue_greedily,
    engine_config,
    load_reference,
    save_model,
)

# in blocks, in float32
BYTES_PER_TOKEN: dict[object, int] = {"deepseek_v3": 640, "gemma4_text": 1536}
GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=8)


@pytest.fixture(scope="module", params=["deepseek_v3", "gemma4_text"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> list[list[int]]:
    return run_undisturbed(model)


def test_handed_off_text_is_that_of_transformers(model: Path) -> None:
    """The two sides have other block sizes and other backends."""
    reference = load_reference(model)
    chunks = engine_config(
        backend="reference", block_size=12, num_blocks=400, max_batch_tokens=16, max_num_seqs=8
    )
    with Workers(model, prefill_config=chunks, decode_config=engine_config(num_blocks=400)) as both:
        for index, prompt in enumerate(PROMPTS):
            both.submit(str(index), prompt, GREEDY)
        for index, prompt in enumerate(PROMPTS):
            expected = continue_greedily(reference, prompt, 8)
            assert both.answers.finished(str(index)).tokens == expected
        both.check_at_rest()
        load = load_now(both.decode)
        assert load.prefill_tokens == load.prefill_fallbacks == load.kv_rejected == 0
        layout = kv_layout(both.decode._engine._engine.spec)
        assert load.kv_bytes == layout.num_bytes(sum(map(len, PROMPTS)))


@pytest.mark.parametrize("mode", ["swap", "recompute"])
def test_preempted_text_is_that_of_an_undisturbed_run(
    model: Path, undisturbed: list[list[int]], mode: str
) -> None:
    """Eight sequences grow to 35 blocks together, and there are 12; half of the prompts are handed off."""
    memory = 12.5 * 16 * BYTES_PER_TOKEN[read_config(model)["model_type"]] / 2**30
    tight = engine_config(kv_cache_gib=memory, preemption=mode)
    with Workers(model, decode_config=tight) as workers:
        assert workers.decode._engine._engine.pool.num_blocks == 12
        answers = run_under_pressure(workers, [PREFILL, None])
        assert [answer.tokens for answer in answers] == undisturbed
        workers.check_at_rest()
        load = load_now(workers.decode)
        assert load.preemptions > 0
        assert load.swaps == (load.preemptions if mode == "swap" else 0)
