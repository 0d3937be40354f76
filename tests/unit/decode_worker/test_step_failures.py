"""Steps that raise while others are in flight: the culprit ends, and all other texts stay right."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from common.engine.build import Engine
from common.engine.model_runner import TokenModel
from common.engine.ragged import RaggedInputs
from common.messages import SamplingParams
from pdserve.errors import Reason
from tests.unit.common.engine.ahead import ahead
from tests.unit.common.engine.breaking import BreakableModel, raising_on, with_model
from tests.unit.decode_worker.driven_engine import DrivenEngine

POISON = 77
PROMPTS = {
    name: [(7 * place + 5 * number) % 70 for place in range(3 + 9 * number)]
    for number, name in enumerate("abcd")
}
GREEDY = SamplingParams(0.0, 0, 20)
OPTIONS = {
    "a": GREEDY,
    "b": replace(GREEDY, temperature=0.9, seed=4, top_p=0.9),
    "c": replace(GREEDY, repetition_penalty=1.2, logprobs=1),  # never in flight
    "d": replace(GREEDY, temperature=0.8, seed=2, max_tokens=31),
}


class LateFaults:
    """A device whose steps fail at the wait, if `fails` was true at their launch."""

    def __init__(self) -> None:
        self.fails: Callable[[], bool] = lambda: False
        self.num_failed = 0

    def start(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Start a copy that may fail at the wait (HostCopies)."""
        fails = self.fails()

        def wait() -> torch.Tensor:
            if fails:
                self.num_failed += 1
                raise RuntimeError("an asynchronous fault")
            return tensor

        return wait


class Watched:
    """A model that notes if POISON was in its last step."""

    def __init__(self, model: TokenModel) -> None:
        self._model = model
        self.name = model.name
        self.saw_poison = False

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Run the model and note POISON (TokenModel)."""
        self.saw_poison = bool((inputs.input_ids == POISON).any())
        return self._model.logits(inputs)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, list[int]]:
    texts = {}
    for name, prompt in PROMPTS.items():
        driven = DrivenEngine()
        driven.submit(name, prompt, OPTIONS[name])
        driven.finish()
        texts[name] = driven.said[name, 0].tokens
    return texts


def runs_ahead_and_raises(engine: Engine) -> Engine:
    return raising_on(POISON)(ahead(engine))


def fails_late(engine: Engine) -> Engine:
    faults, watched = LateFaults(), Watched(engine.runner._model)
    faults.fails = lambda: watched.saw_poison
    return ahead(with_model(engine, lambda _: watched), faults)


CHANGES = {
    "in step": raising_on(POISON),
    "at the launch": runs_ahead_and_raises,
    "at the wait": fails_late,
}


def check(driven: DrivenEngine, undisturbed: dict[str, list[int]], culprits: set[str]) -> None:
    driven.finish()
    for name, text in undisturbed.items():
        said = driven.said[name, 0]
        assert (said.tokens, said.failure) == (text, None)
    for name in culprits:
        failure = driven.said[name, 0].failure
        assert failure is not None
        assert failure.reason is Reason.STEP_FAILED
        assert driven.said[name, 0].tokens == []
    published = sum(len(said.tokens) for said in driven.said.values())
    assert driven.counters.output_tokens == published


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    joins_at=st.lists(st.integers(0, 25), min_size=1, max_size=3),
    place=st.integers(0, 30),
    num_blocks=st.sampled_from([8, 12, 64]),
)
def test_a_prompt_that_raises_ends_alone_whenever_it_comes(
    undisturbed: dict[str, list[int]],
    change: Callable[[Engine], Engine],
    preemption: str,
    joins_at: list[int],
    place: int,
    num_blocks: int,
) -> None:
    driven = DrivenEngine(
        change,
        num_blocks=num_blocks,
        prior_tokens=1,
        preemption=preemption,  # type: ignore[arg-type]
    )
    # a step with "c" in it is waited for at once, and could not fail late
    healthy = {name: PROMPTS[name] for name in ("abd" if change is fails_late else "abcd")}
    for name, prompt in healthy.items():
        driven.submit(name, prompt, OPTIONS[name])
    culprits = {f"poison-{number}": when for number, when in enumerate(joins_at)}
    for step in range(max(joins_at) + 1):
        for name, when in culprits.items():
            if when == step:
                poisoned = [*PROMPTS["d"][:place], POISON, *PROMPTS["b"]]
                driven.submit(name, poisoned, OPTIONS["b"])
        driven.step()
    check(driven, {name: undisturbed[name] for name in healthy}, set(culprits))


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_a_fault_that_does_not_come_again_harms_nobody(
    undisturbed: dict[str, list[int]], fails_at: int
) -> None:
    """The step in flight runs again, and so does the step behind it, which got its tokens from it."""
    faults = LateFaults()
    driven = DrivenEngine(lambda engine: ahead(engine, faults))
    quick = {name: PROMPTS[name] for name in "abd"}
    for name, prompt in quick.items():
        driven.submit(name, prompt, OPTIONS[name])
    for step in range(1, 12):
        faults.fails = lambda step=step: step == fails_at and not faults.num_failed  # type: ignore[misc]
        driven.step()
    assert faults.num_failed == 1
    check(driven, {name: undisturbed[name] for name in quick}, set())


def test_one_that_was_cancelled_in_a_flight_that_fails_is_let_go(
    undisturbed: dict[str, list[int]],
) -> None:
    faults = LateFaults()
    driven = DrivenEngine(lambda engine: ahead(engine, faults))
    driven.submit("a", PROMPTS["a"], OPTIONS["a"])
    driven.submit("b", PROMPTS["b"], OPTIONS["b"])
    for _ in range(3):
        driven.step()
    faults.fails = lambda: not faults.num_failed
    driven.step()
    driven.cancel("b")
    check(driven, {"a": undisturbed["a"]}, set())
    assert faults.num_failed == 1


def test_a_flight_that_fails_when_all_are_gone_blames_nobody() -> None:
    faults = LateFaults()
    driven = DrivenEngine(lambda engine: ahead(engine, faults))
    driven.submit("a", PROMPTS["a"], OPTIONS["a"])
    driven.step()
    faults.fails = lambda: not faults.num_failed
    driven.step()
    driven.cancel("a")
    check(driven, {}, set())
    assert faults.num_failed == 1


@pytest.mark.parametrize("wrap", [lambda engine: engine, ahead])
def test_an_engine_that_is_lost_ends(wrap: Callable[[Engine], Engine]) -> None:
    models: list[BreakableModel] = []

    def breakable(model: TokenModel) -> BreakableModel:
        models.append(BreakableModel(model))
        return models[-1]

    driven = DrivenEngine(lambda engine: with_model(wrap(engine), breakable))
    for name, prompt in PROMPTS.items():
        driven.submit(name, prompt, OPTIONS[name])
    for _ in range(4):
        driven.step()
    models[0].error = RuntimeError("the device is gone")
    with pytest.raises(RuntimeError, match="the device is gone"):
        driven.step()
    assert all(said.failure is None for said in driven.said.values())


def test_what_a_culprit_computed_is_not_found_again() -> None:
    driven = DrivenEngine(raising_on(POISON))
    prompt = [*range(1, 60), POISON]  # chunks of 24
    for name in ("first", "second"):
        driven.submit(name, prompt, GREEDY)
        driven.finish()
        failure = driven.said[name, 0].failure
        assert failure is not None
        assert failure.reason is Reason.STEP_FAILED
        assert driven.engine.pool.num_cached == 0
    assert driven.engine.prefix.num_hit_tokens == 0
