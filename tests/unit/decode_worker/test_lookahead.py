"""Overlap of steps, and the token too many that a finished sequence runs."""

from dataclasses import replace

import pytest

from common.messages import SamplingParams
from pdserve.errors import Reason
from tests.unit.common.engine.ahead import HeldCopies, ahead
from tests.unit.decode_worker.driven_engine import DrivenEngine

PROMPT = [5, 17, 3, 88, 41]
GREEDY = SamplingParams(0.0, 0, 40, ignore_eos=True)
WARM = replace(GREEDY, temperature=0.9, seed=4)


def in_step(prompt: list[int], sampling: SamplingParams) -> DrivenEngine:
    driven = DrivenEngine()
    driven.submit("r", prompt, sampling)
    driven.finish()
    return driven


class Ahead(DrivenEngine):
    def __init__(self, num_blocks: int = 64, prior_tokens: int = 40) -> None:
        self.copies = HeldCopies()
        super().__init__(lambda engine: ahead(engine, self.copies), num_blocks, prior_tokens)

    @property
    def is_flying(self) -> bool:
        return self.decode._lookahead.is_flying


@pytest.mark.parametrize(
    "sampling", [GREEDY, WARM, replace(WARM, top_p=0.7), replace(WARM, top_k=5)]
)
def test_a_token_is_published_while_the_next_is_in_flight(sampling: SamplingParams) -> None:
    expected = in_step(PROMPT, sampling).said["r", 0].tokens
    driven = Ahead()
    driven.submit("r", PROMPT, sampling)
    said = driven.said["r", 0]
    for num_steps in range(1, 40):
        driven.step()
        assert driven.is_flying
        assert said.tokens == expected[: num_steps - 1]
        # the step in flight was launched before the one before it was waited for
        assert (driven.copies.num_started, driven.copies.num_waited) == (num_steps, num_steps - 1)
    driven.finish()
    assert said.tokens == expected


def test_the_length_limit_wastes_no_step() -> None:
    driven = Ahead()
    driven.submit("r", PROMPT, replace(GREEDY, max_tokens=6))
    driven.finish()
    assert driven.counters.steps == 6
    assert driven.counters.prefill_tokens == len(PROMPT)
    assert driven.counters.output_tokens == 6


def test_the_token_behind_a_stop_leaves_no_trace() -> None:
    """The prompt and the tokens before the stop fill two blocks; those behind it would fill a third."""
    prompt = list(range(20, 46))
    text = in_step(prompt, WARM).said["r", 0].tokens
    stops = [at for at in range(5, 30) if text[at] not in text[:at] and (26 + at) % 16 == 15]
    sampling = replace(WARM, stop_token_ids=(text[stops[0]],))
    plain, driven = in_step(prompt, sampling), Ahead()
    driven.submit("r", prompt, sampling)
    driven.finish()
    assert driven.said == plain.said
    assert driven.counters.steps == plain.counters.steps + 1  # it did run
    assert driven.counters.output_tokens == plain.counters.output_tokens
    assert driven.engine.pool._blocks.keys() == plain.engine.pool._blocks.keys()
    assert len(driven.engine.pool._blocks) == (26 + stops[0]) // 16


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"presence_penalty": 0.5},
        {"min_tokens": 3},
        {"logit_bias": ((4, 1.0),)},
        {"logprobs": 0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_who_needs_the_host_keeps_the_whole_batch_in_step(options: dict[str, object]) -> None:
    needy = replace(WARM, max_tokens=5, **options)  # type: ignore[arg-type]
    expected = in_step(PROMPT, WARM).said["r", 0].tokens
    driven = Ahead()
    driven.submit("r", PROMPT, WARM)
    driven.step()
    assert driven.is_flying
    driven.submit("needy", PROMPT[::-1], needy)
    while "needy" in driven.live:
        driven.step()
        assert not driven.is_flying
    driven.step()
    assert driven.is_flying
    driven.finish()
    assert driven.said["r", 0].tokens == expected
    assert driven.said["needy", 0].tokens == in_step(PROMPT[::-1], needy).said["r", 0].tokens


def test_nobody_is_preempted_while_a_token_is_in_flight() -> None:
    expected = {index: in_step(PROMPT[index:], WARM).said["r", 0].tokens for index in range(3)}
    driven = Ahead(num_blocks=5, prior_tokens=1)
    seen = []
    set_aside = driven.scheduler.preemption.set_aside

    def watch(seq: object, num_shared_tokens: int) -> None:
        seen.append(driven.is_flying)
        set_aside(seq, num_shared_tokens)  # type: ignore[arg-type]

    driven.scheduler.preemption.set_aside = watch  # type: ignore[method-assign]
    for index in range(3):
        driven.submit(str(index), PROMPT[index:], WARM)
    driven.finish()
    assert seen
    assert not any(seen)
    assert {index: driven.said[str(index), 0].tokens for index in range(3)} == expected


def test_a_deadline_ends_a_sequence_whose_token_is_in_flight() -> None:
    driven, expected = Ahead(), in_step(PROMPT, WARM).said["r", 0].tokens
    driven.submit("r", PROMPT, WARM, timeout_s=7.5)
    driven.finish()
    said = driven.said["r", 0]
    assert said.failure is not None
    assert said.failure.reason is Reason.DEADLINE_EXCEEDED
    assert (
        said.tokens == expected[:6]
    )  # seven steps ran, and the eighth began with a look at the clock
    assert driven.counters.output_tokens == 6


def test_blocks_of_one_that_ended_in_flight_are_free_at_once() -> None:
    driven = Ahead()
    driven.submit("r", PROMPT, GREEDY)
    driven.submit("other", PROMPT[::-1], replace(GREEDY, max_tokens=9))
    driven.step()
    driven.step()
    driven.cancel("r")
    assert driven.engine.pool.num_held == 1
    driven.finish()
    expected = in_step(PROMPT[::-1], replace(GREEDY, max_tokens=9)).said["r", 0].tokens
    assert driven.said["other", 0].tokens == expected
    assert driven.counters.output_tokens == len(driven.said["r", 0].tokens) + 9
