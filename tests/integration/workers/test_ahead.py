"""Decode one step ahead gives the text of decode in step, whatever happens to the requests."""

from functools import partial
from pathlib import Path

import pytest

from common.messages import SamplingParams
from pdserve.errors import Reason
from tests.integration.support.eight_prompts import (
    PROMPTS,
    ROOMY,
    run_under_pressure,
    run_undisturbed,
)
from tests.integration.support.fated_requests import TIGHT, Plan
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    PREFILL,
    Workers,
    an_hour_later,
    load_now,
)
from tests.unit.common.engine.ahead import HeldCopies, ahead
from tests.unit.common.engine.tiny_models import engine_config, save_model

AHEAD = partial(Workers, change=ahead)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> list[list[int]]:
    return run_undisturbed(model)


@pytest.mark.parametrize("sources", [[PREFILL], [None], [PREFILL, None, "prefill-9"]])
@pytest.mark.parametrize("num_blocks", [400, 12])
def test_the_text_is_that_of_an_engine_in_step(
    model: Path, undisturbed: list[list[int]], sources: list[str | None], num_blocks: int
) -> None:
    """Hand-offs join running batches, prompts run beside them, and twelve blocks cause preemptions."""
    decode = engine_config(num_blocks=num_blocks, max_num_seqs=8, max_batch_tokens=24)
    with AHEAD(model, prefill_config=CHUNKS_OF_16, decode_config=decode) as workers:
        answers = run_under_pressure(workers, sources)
        assert [answer.tokens for answer in answers] == undisturbed
        workers.check_at_rest()
        load = load_now(workers.decode)
        assert (load.preemptions > 0) == (num_blocks == 12)
        if sources == [None]:
            assert load.output_tokens == sum(map(len, undisturbed))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_many_requests_that_are_cancelled_and_lose_their_transfers(model: Path, seed: int) -> None:
    plan = Plan(seed)
    expected = plan.run_undisturbed(model)
    with AHEAD(model, prefill_config=CHUNKS_OF_16, decode_config=TIGHT, wrap=plan.wrap) as workers:
        plan.run(workers, expected)


def test_a_deadline_while_steps_are_in_flight(model: Path) -> None:
    endless = SamplingParams(temperature=0.8, seed=3, max_tokens=6000)
    copies = HeldCopies()
    with Workers(model, decode_config=ROOMY, change=partial(ahead, copies=copies)) as workers:
        workers.submit("late", PROMPTS[0], endless, prefill=None, timeout_s=1800.0)
        workers.answers.wait("late", lambda answer: len(answer.tokens) > 2)
        with an_hour_later():
            answer = workers.answers.finished("late")
        assert answer.failure is not None
        assert answer.failure.reason is Reason.DEADLINE_EXCEEDED
        assert 2 < len(answer.tokens) < 6000
        workers.check_at_rest()
        assert load_now(workers.decode).output_tokens == len(answer.tokens)
        assert copies.num_started == copies.num_waited > len(answer.tokens)
