"""Decode one step ahead gives the text of an engine in step, through arrivals, ends and pressure."""

import random
from dataclasses import replace
from functools import cache

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.messages import FinishReason, SamplingParams
from pdserve.errors import Reason
from tests.examples import examples
from tests.unit.common.engine.ahead import HeldCopies, ahead
from tests.unit.common.engine.tiny_models import VOCAB
from tests.unit.decode_worker.driven_engine import DrivenEngine

_DRAW = random.Random(5)
_BEGINNING = [_DRAW.randrange(VOCAB) for _ in range(20)]
_PLAIN = SamplingParams(0.0, 0, 40, stop_token_ids=(3, 7))
_OPTIONS: list[dict[str, object]] = [
    {},
    {"temperature": 0.9},
    {"temperature": 0.9, "top_p": 0.8, "top_k": 20},
    {"temperature": 0.7, "min_p": 0.05, "ignore_eos": True},
    {"temperature": 0.9, "max_tokens": 1},
    {"temperature": 0.9, "max_tokens": 2},
    {"repetition_penalty": 1.2},
    {"temperature": 0.9, "min_tokens": 9, "logit_bias": ((5, 2.0),)},
    {"logprobs": 2, "prompt_logprobs": 1},
]


def asked(kind: int) -> tuple[list[int], SamplingParams]:
    """Return a prompt of one to forty tokens and its options; some prompts begin alike."""
    draw = random.Random(kind)
    prompt = _BEGINNING[: draw.choice((0, 16, 20))] + draw.choices(range(VOCAB), k=1 + kind * 2)
    options = _OPTIONS[kind % len(_OPTIONS)]
    return prompt, replace(_PLAIN, seed=800 + kind, **options)  # type: ignore[arg-type]


NUM_KINDS = 2 * len(_OPTIONS)


@cache
def answer(kind: int) -> tuple[list[int], FinishReason | None]:
    """Return the answer of an engine in step that runs nothing else."""
    driven = DrivenEngine()
    driven.submit("r", *asked(kind))
    driven.finish()
    said = driven.said["r", 0]
    return said.tokens, said.finish_reason


def test_answers_end_in_every_way() -> None:
    """Check that the answers are varied: otherwise the machine would show little."""
    ends = [answer(kind) for kind in range(NUM_KINDS)]
    assert sum(reason is FinishReason.STOP for _, reason in ends) >= 4
    assert sum(reason is FinishReason.LENGTH for _, reason in ends) >= 4
    assert max(len(tokens) for tokens, _ in ends) == 40


class LookaheadMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.sampled_from([7, 10, 64]), preemption=st.sampled_from(["swap", "recompute"])
    )
    def start(self, num_blocks: int, preemption: str) -> None:
        self.copies = HeldCopies()
        self.driven = DrivenEngine(
            lambda engine: ahead(engine, self.copies),
            num_blocks=num_blocks,
            prior_tokens=1,
            preemption=preemption,  # type: ignore[arg-type]
        )
        self.kinds: dict[tuple[str, int], int] = {}
        self.cut: set[tuple[str, int]] = set()  # cancelled, or tried anew
        self.hurried: set[tuple[str, int]] = set()  # those with a deadline

    @rule(
        name=st.sampled_from("abcdefgh"),
        kind=st.integers(0, NUM_KINDS - 1),
        timeout_s=st.sampled_from([None, None, 1.5, 4.5, 20.5]),
    )
    def submit(self, name: str, kind: int, timeout_s: float | None) -> None:
        """Submit a request, or a newer attempt at one that may be in flight."""
        attempt = sum(known == name for known, _ in self.kinds)
        if name in self.driven.live:
            self.cut.add((name, attempt - 1))
        self.kinds[name, attempt] = kind
        self.driven.submit(name, *asked(kind), attempt, timeout_s)
        if timeout_s is not None:
            self.hurried.add((name, attempt))

    @precondition(lambda self: self.driven.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.driven.live)))
        self.cut.add((name, self.driven.live[name].request.attempt))
        self.driven.cancel(name)

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.driven.step()

    @invariant()
    def one_step_at_most_is_in_flight(self) -> None:
        if hasattr(self, "copies"):
            is_flying = self.driven.decode._lookahead.is_flying
            assert self.copies.num_started - self.copies.num_waited == is_flying

    @invariant()
    def a_sequence_in_flight_has_one_more_computed_token_than_it_shows(self) -> None:
        if hasattr(self, "driven"):
            for seq in self.driven.scheduler.running:
                assert seq.num_computed_tokens <= len(seq.token_ids)
                is_in_flight = seq.num_uncomputed_tokens == 0
                assert self.driven.decode._lookahead.is_flying or not is_in_flight
                assert seq.next_position == len(seq.token_ids) + is_in_flight

    def teardown(self) -> None:
        self.driven.finish()
        for key, kind in self.kinds.items():
            said, (tokens, reason) = self.driven.said[key], answer(kind)
            assert said.tokens == tokens[: len(said.tokens)]
            if said.failure is not None:
                assert said.failure.reason is Reason.DEADLINE_EXCEEDED
                assert key in self.hurried
            elif key not in self.cut:
                assert (said.tokens, said.finish_reason) == (tokens, reason)
        published = sum(len(said.tokens) for said in self.driven.said.values())
        assert self.driven.counters.output_tokens == published


TestLookaheadMachine = LookaheadMachine.TestCase
TestLookaheadMachine.settings = settings(
    deadline=None, derandomize=True, max_examples=examples(25), stateful_step_count=30
)
