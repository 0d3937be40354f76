"""Blame for a step that raises, found by experiment, on a real engine."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from structlog.typing import EventDict

from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.isolation import MAX_IN_A_ROW, Isolation
from common.engine.model_runner import Landed
from common.engine.raising import RaisingModel
from common.engine.sequence import Sequence
from common.messages import SamplingParams
from tests.examples import examples
from tests.unit.common.engine.breaking import BreakableModel, raising_on, with_model
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.decode_worker.driven_engine import tiny_engine

POISON = 77
SCORED = SamplingParams(0.0, 0, 4, logprobs=2, prompt_logprobs=1)


class PanicError(BaseException):
    """Error of native code, which is no Exception."""


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """Collect log events; the unconfigured form draws every local variable."""
    with capture_logs() as logs:
        yield logs


@pytest.fixture
def engine() -> Engine:
    return tiny_engine()


def sequences(engine: Engine, poisoned: set[int], count: int = 8) -> list[Sequence]:
    """Prompts of various lengths that all sample; some of them begin with POISON."""
    found = []
    for index in range(count):
        prompt = [POISON if index in poisoned else 1, *range(2, 4 + 3 * index)]
        sampling = SCORED if index % 3 == 2 else None
        found.append(hold(engine.pool, make_sequence(prompt, sampling, request_id=str(index))))
    return found


def give_back(engine: Engine, held: list[Sequence]) -> None:
    for seq in held:
        engine.pool.release(seq.block_table)
    engine.pool.check_integrity([])


def batch_of(held: list[Sequence]) -> Batch:
    return Batch(tuple(BatchEntry(seq, len(seq.token_ids)) for seq in held))


def samples(landed: list[Landed]) -> dict[str, object]:
    """Return the tokens sampled for each sequence."""
    return {
        entry.seq.request_id: sample
        for one in landed
        if one.error is None
        for entry, sample in zip(one.batch.entries, one.samples, strict=True)
    }


def blamed(landed: list[Landed]) -> set[int]:
    return {int(one.batch.entries[0].seq.request_id) for one in landed if one.error is not None}


@settings(
    deadline=None,
    max_examples=examples(20),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(poisoned=st.sets(st.integers(0, 7)))
def test_those_that_make_it_raise_are_found_and_all_others_run_as_ever(
    engine: Engine, poisoned: set[int]
) -> None:
    undisturbed = sequences(engine, poisoned)
    expected = Isolation(engine.runner).run(batch_of(undisturbed))
    held = sequences(engine, poisoned)
    landed = Isolation(raising_on(POISON)(engine).runner).run(batch_of(held))
    assert blamed(landed) == poisoned
    wanted = {key: one for key, one in samples(expected).items() if int(key) not in poisoned}
    assert samples(landed) == wanted
    for index in set(range(8)) - poisoned:
        assert held[index].prompt_logprobs == undisturbed[index].prompt_logprobs
    # the engine counts, and nobody else
    assert all(seq.num_computed_tokens == 0 for seq in held)
    assert all(len(seq.token_ids) == seq.num_prompt_tokens for seq in held)
    give_back(engine, undisturbed + held)


def test_one_among_eight_takes_seven_steps_to_find(engine: Engine, logs: list[EventDict]) -> None:
    counting = BreakableModel(RaisingModel(engine.runner._model, POISON))
    held = sequences(engine, {5})
    landed = Isolation(with_model(engine, lambda _: counting).runner).run(batch_of(held))
    assert blamed(landed) == {5}
    assert counting.num_steps == 7
    assert [(line["event"], line["request_id"]) for line in logs] == [("step_failed", "5")]
    give_back(engine, held)


@pytest.mark.parametrize("error", [RuntimeError("late"), MemoryError(), PanicError("native")])
def test_what_raises_once_is_nobodys_fault(engine: Engine, error: BaseException) -> None:
    """A prompt's log-probabilities are neither lost nor doubled."""
    model = BreakableModel(engine.runner._model)
    isolation = Isolation(with_model(engine, lambda _: model).runner)
    undisturbed = sequences(engine, set())
    expected = isolation.run(batch_of(undisturbed))
    held = sequences(engine, set())
    landed = isolation.rerun(batch_of(held), error)
    assert not blamed(landed)
    assert samples(landed) == samples(expected)
    give_back(engine, undisturbed + held)


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("error", [RuntimeError("lost"), MemoryError(), AssertionError()])
def test_an_engine_that_runs_nothing_any_more_blames_nobody(
    engine: Engine, count: int, error: BaseException
) -> None:
    model = BreakableModel(engine.runner._model)
    model.error = error
    held = sequences(engine, set(), count)
    with pytest.raises(type(error)):
        Isolation(with_model(engine, lambda _: model).runner).run(batch_of(held))
    give_back(engine, held)


def test_an_engine_that_fails_every_request_in_a_row_is_broken(engine: Engine) -> None:
    """A harmless token still runs."""
    isolation = Isolation(raising_on(POISON)(engine).runner)
    (poisoned,) = held = sequences(engine, {0}, 1)
    for _ in range(MAX_IN_A_ROW - 1):
        assert blamed(isolation.run(batch_of([poisoned]))) == {0}
    with pytest.raises(RuntimeError):
        isolation.run(batch_of([poisoned]))
    give_back(engine, held)


@pytest.mark.parametrize("good_steps", ["its own", "others'"])
def test_a_step_that_runs_ends_the_row(engine: Engine, good_steps: str) -> None:
    isolation = Isolation(raising_on(POISON)(engine).runner)
    poisoned, healthy = held = sequences(engine, {0}, 2)
    for _ in range(3 * MAX_IN_A_ROW):
        assert blamed(isolation.run(batch_of([poisoned]))) == {0}
        if good_steps == "others'":
            isolation.note_ran()
        else:
            assert not blamed(isolation.run(batch_of([healthy])))
    give_back(engine, held)
