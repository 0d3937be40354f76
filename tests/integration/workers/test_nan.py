"""NaN fails one request, harms no other, and leaves nothing behind."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from common.messages import SamplingParams
from pdserve.errors import Reason
from tests.integration.support.eight_prompts import PROMPTS, UNUSED_TOKEN, run_undisturbed, sampling
from tests.integration.support.in_process_workers import CHUNKS_OF_16, PREFILL, Workers, load_now
from tests.unit.common.engine.tiny_models import engine_config, save_model

POISON, BEGINNING = UNUSED_TOKEN, 12


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the same model with NaN as its embedding of POISON."""
    folder = save_model(tmp_path_factory.mktemp("fragile"), "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][POISON] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[int]]:
    """Return beginnings of texts without POISON, by prompt."""
    undisturbed = run_undisturbed(save_model(tmp_path_factory.mktemp("llama"), "llama"))
    texts = {index: text[:BEGINNING] for index, text in enumerate(undisturbed)}
    texts = {index: text for index, text in texts.items() if POISON not in text}
    assert len(texts) >= 4
    return texts


def beginning(index: int) -> SamplingParams:
    return sampling(index, max_tokens=BEGINNING)


@pytest.mark.parametrize("prefill", [PREFILL, None])
def test_nan_logits_fail_one_request_and_harm_no_other(
    fragile: Path, healthy: dict[int, list[int]], prefill: str | None
) -> None:
    with Workers(fragile, prefill_config=CHUNKS_OF_16) as workers:
        for index in healthy:
            workers.submit(str(index), PROMPTS[index], beginning(index), prefill=prefill)
            poisoned = [*PROMPTS[index], POISON, 5]
            workers.submit(f"poisoned-{index}", poisoned, beginning(index), prefill=prefill)
        for index, text in healthy.items():
            failure = workers.answers.finished(f"poisoned-{index}").failure
            assert failure is not None
            assert failure.reason is Reason.NAN_LOGITS
            assert workers.answers.finished(str(index)).tokens == text
        workers.check_at_rest()


@pytest.mark.parametrize("prefill", [PREFILL, None])
def test_memory_that_held_nan_is_safe_to_use_again(
    fragile: Path, healthy: dict[int, list[int]], prefill: str | None
) -> None:
    """A poisoned prompt has filled all of the twelve blocks."""
    small = engine_config(num_blocks=12)
    with Workers(fragile, prefill_config=small, decode_config=small) as workers:
        workers.submit("poisoned", [POISON] * 180, beginning(0), prefill=prefill)
        assert workers.answers.finished("poisoned").failure is not None
        for index in healthy:
            workers.submit(str(index), PROMPTS[index], beginning(index), prefill=prefill)
        for index, text in healthy.items():
            assert workers.answers.finished(str(index)).tokens == text
        workers.check_at_rest()


@pytest.mark.parametrize("prefill", [PREFILL, None])
def test_what_a_poisoned_prompt_computed_is_not_found_again(
    fragile: Path, prefill: str | None
) -> None:
    with Workers(fragile, prefill_config=CHUNKS_OF_16) as workers:
        workers.submit("poisoned", [POISON] * 60, beginning(0), prefill=prefill)
        assert workers.answers.finished("poisoned").failure is not None
        workers.check_at_rest()
        for worker in (workers.prefill, workers.decode):
            assert load_now(worker).blocks_cached == 0
