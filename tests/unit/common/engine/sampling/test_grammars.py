"""Compilation of grammars beside the engine."""

import threading
from pathlib import Path

import pytest

from common.engine.model_spec import ModelSpec
from common.engine.sampling.grammars import Grammars
from common.engine.sequence import Sequence
from common.grammar.compiler import GrammarError
from common.messages import FinishReason, Grammar, SamplingParams
from tests.patience import WITHIN_S
from tests.unit.common.engine.sequences import make_sequence
from tests.unit.common.grammar.allowed import EOS, VOCAB, allowed, choice, letters, regex
from tests.unit.router.tiny_tokenizer import write_folder

SPEC = ModelSpec(1, 1, 1, 1, VOCAB, 64, frozenset({EOS}), "float32", "f")


class Compiling:
    """Grammars, and a way to wait for what they prepare."""

    def __init__(self, model_dir: Path) -> None:
        self._woken = threading.Semaphore(0)
        self.grammars = Grammars(model_dir, SPEC, self._woken.release)

    def prepare(self, seq: Sequence, grammar: Grammar) -> GrammarError | None:
        self.grammars.prepare(seq, grammar)
        assert self._woken.acquire(timeout=WITHIN_S)
        ((prepared, error),) = self.grammars.collect()
        assert prepared is seq
        return error


@pytest.fixture
def compiling(tmp_path: Path) -> Compiling:
    return Compiling(write_folder(tmp_path))


def test_a_sequence_gets_a_matcher_of_its_own(compiling: Compiling) -> None:
    first, second = make_sequence(3), make_sequence(3)
    for seq in (first, second):
        assert compiling.prepare(seq, choice("no")) is None
    assert first.matcher is not None
    assert second.matcher is not None
    first.append(ord("n"), frozenset({EOS}))
    assert allowed(first.matcher, second.matcher) == [letters("o"), letters("n")]
    assert compiling.grammars.collect() == []


def test_a_sequence_that_has_output_already_goes_on_from_there(compiling: Compiling) -> None:
    seq = make_sequence(3)
    seq.append(ord("n"), frozenset())
    assert compiling.prepare(seq, choice("no")) is None
    assert seq.matcher is not None
    assert allowed(seq.matcher) == [letters("o")]


def test_a_grammar_that_cannot_be_compiled_is_handed_back(compiling: Compiling) -> None:
    seq = make_sequence(3)
    error = compiling.prepare(seq, regex("(a"))
    assert "unclosed group" in str(error)
    assert seq.matcher is None
    assert compiling.prepare(seq, regex("a")) is None, "the next one is unharmed"


def test_a_model_without_tokenizer_has_no_grammars(tmp_path: Path) -> None:
    compiling = Compiling(tmp_path)
    for _ in range(2):
        assert "tokenizer.json" in str(compiling.prepare(make_sequence(3), choice("a")))


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [("no", None), ("nob", None), ("nobody", FinishReason.STOP), ("nobo", FinishReason.LENGTH)],
)
def test_a_sequence_stops_when_its_grammar_is_complete(
    compiling: Compiling, tokens: str, reason: FinishReason | None
) -> None:
    max_tokens = 4 if reason is FinishReason.LENGTH else 6
    seq = make_sequence(3, SamplingParams(0.0, 0, max_tokens))
    compiling.prepare(seq, choice("no", "nobody"))
    for token_id in tokens.encode():
        assert not seq.is_finished
        seq.append(token_id, frozenset({EOS}))
    assert seq.finish_reason is reason


def test_the_end_token_stops_a_text_that_may_end(compiling: Compiling) -> None:
    seq = make_sequence(3, SamplingParams(0.0, 0, 9))
    compiling.prepare(seq, choice("no", "nobody"))
    for token_id in (ord("n"), ord("o"), EOS):
        seq.append(token_id, frozenset({EOS}))
    assert seq.finish_reason is FinishReason.STOP
