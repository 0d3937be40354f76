"""Too little memory or time: equal text or a clear end, and no block held."""

from pathlib import Path

import pytest

from common.config import TransferConfig
from common.engine.memory.host_swap import HostSwap
from common.messages import SamplingParams
from pdserve.errors import Reason
from tests.integration.support.eight_prompts import (
    PROMPTS,
    ROOMY,
    run_under_pressure,
    run_undisturbed,
    sampling,
)
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    PREFILL,
    Answer,
    Workers,
    an_hour_later,
    expect_short_answers,
    load_now,
    until,
)
from tests.integration.support.kv_faults import Gate, hold_at, meddle
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import engine_config, save_model

ENDLESS = SamplingParams(temperature=0.8, seed=3, max_tokens=6000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> list[list[int]]:
    return run_undisturbed(model)


@pytest.mark.parametrize("mode", ["swap", "recompute"])
@pytest.mark.parametrize("sources", [[PREFILL], [None], [PREFILL, None]])
def test_preempted_text_is_that_of_an_undisturbed_run(
    model: Path, undisturbed: list[list[int]], sources: list[str | None], mode: str
) -> None:
    """Eight sequences grow to 35 blocks together, and there are 12."""
    tight = engine_config(num_blocks=12, preemption=mode)
    with Workers(model, prefill_config=CHUNKS_OF_16, decode_config=tight) as workers:
        answers = run_under_pressure(workers, sources)
        assert [answer.tokens for answer in answers] == undisturbed
        workers.check_at_rest()
        load = load_now(workers.decode)
        preemptions = load.preemptions
        assert preemptions > 0
        assert load.swaps == (preemptions if mode == "swap" else 0)
        assert (load.recomputed_tokens > 0) == (mode == "recompute")
        reported = [answer.timings.num_preemptions for answer in answers if answer.timings]
        assert sum(reported) == preemptions


def test_without_room_in_host_memory_they_are_computed_again(
    model: Path, undisturbed: list[list[int]]
) -> None:
    """Host memory has room for one sequence of 60 tokens at a time."""
    tight = engine_config(num_blocks=12, preemption="swap", swap_gib=60 * 512 / 2**30)
    with Workers(model, decode_config=tight) as workers:
        answers = run_under_pressure(workers, [None])
        assert [answer.tokens for answer in answers] == undisturbed
        workers.check_at_rest()
        load = load_now(workers.decode)
        assert 0 < load.swaps < load.preemptions


def test_a_learnt_length_keeps_the_batch_from_pressure(
    model: Path, undisturbed: list[list[int]]
) -> None:
    """The same sequences run in the same memory, with the length of all answers known before."""
    with Workers(model, decode_config=engine_config(num_blocks=12)) as workers:
        for index, prompt in enumerate(PROMPTS):
            workers.submit(str(index), prompt, sampling(index), prefill=None)
        for index, expected in enumerate(undisturbed):
            assert workers.answers.finished(str(index)).tokens == expected
        assert load_now(workers.decode).preemptions == 0
        workers.check_at_rest()


def test_cancelled_while_its_kv_waits_in_host_memory(model: Path) -> None:
    with Workers(model, decode_config=engine_config(num_blocks=12, preemption="swap")) as workers:
        expect_short_answers(workers.decode)
        for index, prompt in enumerate(PROMPTS):
            workers.submit(str(index), prompt, sampling(index), prefill=None)
        until(lambda: load_now(workers.decode).swaps > 0, "swapped out")
        for index in range(len(PROMPTS)):
            workers.decode.cancel(str(index))
        workers.check_at_rest()
        memory = workers.decode._engine._scheduler.preemption._memory
        assert isinstance(memory, HostSwap)
        assert memory.num_bytes == 0


def test_a_transfer_with_little_credit_and_few_slots(
    model: Path, undisturbed: list[list[int]]
) -> None:
    transfer = TransferConfig(
        max_concurrent_pulls=1, max_inflight_mib=1, item_timeout_s=WITHIN_S, inserts_per_step=1
    )
    tight = engine_config(num_blocks=30, max_num_seqs=2)
    with Workers(model, prefill_config=tight, decode_config=tight, transfer=transfer) as workers:
        for index, prompt in enumerate(PROMPTS):
            workers.submit(str(index), prompt, sampling(index))
        for index, expected in enumerate(undisturbed):
            assert workers.answers.finished(str(index)).tokens == expected
        workers.check_at_rest()
        assert load_now(workers.decode).prefill_fallbacks == 0


def check_expired(answer: Answer) -> None:
    assert answer.failure is not None
    assert answer.failure.reason is Reason.DEADLINE_EXCEEDED


@pytest.mark.parametrize("prefill", [PREFILL, None])
def test_a_deadline_in_the_middle_of_decoding(model: Path, prefill: str | None) -> None:
    with Workers(model, decode_config=ROOMY) as workers:
        workers.submit("r", PROMPTS[0], ENDLESS, prefill=prefill, timeout_s=1800.0)
        workers.answers.wait("r", lambda answer: len(answer.tokens) > 2)
        with an_hour_later():
            answer = workers.answers.finished("r")
        check_expired(answer)
        assert 2 < len(answer.tokens) < 6000
        workers.check_at_rest()


@pytest.mark.parametrize("prefill", [PREFILL, None])
def test_a_deadline_that_is_over_on_arrival(model: Path, prefill: str | None) -> None:
    with Workers(model) as workers:
        workers.submit("r", PROMPTS[0], sampling(0), prefill=prefill, timeout_s=-1.0)
        answer = workers.answers.finished("r")
        check_expired(answer)
        assert answer.tokens == []
        workers.check_at_rest()
        assert load_now(workers.prefill).steps == load_now(workers.decode).steps == 0


def test_a_deadline_while_kv_is_on_the_way(model: Path) -> None:
    gate = Gate()
    wrap = meddle(hold_at(1, gate))
    with Workers(model, prefill_config=CHUNKS_OF_16, decode_config=ROOMY, wrap=wrap) as workers:
        workers.submit("r", PROMPTS[3], sampling(3), timeout_s=1800.0)
        gate.wait_reached()
        # other work makes the engine look at its clock
        workers.submit("other", PROMPTS[0], ENDLESS, prefill=None)
        with an_hour_later():
            check_expired(workers.answers.finished("r"))
        workers.decode.cancel("other")
        gate.open()
        workers.check_at_rest()


def test_a_newer_attempt_takes_over(model: Path, undisturbed: list[list[int]]) -> None:
    gate = Gate()
    with Workers(model, prefill_config=CHUNKS_OF_16, wrap=meddle(hold_at(0, gate))) as workers:
        workers.submit("r", PROMPTS[1], sampling(1))
        gate.wait_reached()
        workers.submit("r", PROMPTS[1], sampling(1), attempt=2, prefill=None)
        workers.submit("r", PROMPTS[0], sampling(0), attempt=1, prefill=None)
        assert workers.answers.finished("r").tokens == undisturbed[1]
        gate.open()
        workers.check_at_rest()
