"""Grammars over real workers: the same text wherever it runs, always of the requested form."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from common.engine.sampling import grammars as engine_grammar
from common.grammar.compiler import GrammarCompiler
from common.grammar.matcher import GrammarMatcher
from common.messages import FinishReason, Grammar, SamplingParams, WorkRequest
from pdserve.errors import Reason
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    PREFILL,
    Answer,
    Workers,
    expect_short_answers,
    load_now,
)
from tests.integration.support.kv_faults import Gate
from tests.unit.common.engine.tiny_models import engine_config, save_model
from tests.unit.common.grammar.allowed import EOS, VOCAB, choice, lark, regex, schema
from tests.unit.router.tiny_tokenizer import write_folder

RECORD = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0, "maximum": 99999},
        "tags": {
            "type": "array",
            "items": {"enum": ["red", "é", "blue"]},
            "minItems": 2,
            "maxItems": 4,
        },
        "note": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-z ]{3,12}$"}]},
        "ok": {"type": "boolean"},
    },
    "required": ["id", "tags", "note", "ok"],
    "additionalProperties": False,
}
GRAMMARS: list[Grammar | None] = [
    schema(json.dumps(RECORD)),
    regex("[A-Z][a-z]{5,20}(-[0-9]{4}){3}"),
    choice("a rather long first choice", "a rather long second one", "something else"),
    lark('start: "(" start start ")" | /[0-9]{1,3}/'),
    None,
]
DRAW = random.Random(4)
PROMPTS = [[DRAW.randrange(256) for _ in range(DRAW.choice((3, 16, 30, 45)))] for _ in range(10)]
FAILS_IN_FLIGHT = regex("[a-f]{12}(a{1000}){1000}")
FAILS_AT_ONCE = regex("(a{1000}){1000}")


def sampling(index: int, grammar: Grammar | None, max_tokens: int = 150) -> SamplingParams:
    temperature = 0.9 if index % 2 else 0.0
    max_tokens = max_tokens if grammar else 40
    return SamplingParams(temperature, index, max_tokens, grammar=grammar)


def is_of_form(index: int, text: str) -> bool:
    match index % len(GRAMMARS):
        case 0:
            jsonschema.validate(json.loads(text), RECORD)
            return True
        case 1:
            return bool(re.fullmatch("[A-Z][a-z]{5,20}(-[0-9]{4}){3}", text))
        case 2:
            grammar = GRAMMARS[2]
            return grammar is not None and text in grammar.texts
        case _:
            return bool(re.fullmatch("[0-9()]+", text)) and text.count("(") == text.count(")")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("llama"))
    return save_model(folder, "llama", vocab_size=VOCAB, eos_token_id=EOS)


def submit_all(workers: Workers, source: str | None) -> list[Answer]:
    for index, prompt in enumerate(PROMPTS):
        params = sampling(index, GRAMMARS[index % len(GRAMMARS)])
        workers.submit(str(index), prompt, params, prefill=source)
    return [workers.answers.finished(str(index)) for index in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> list[list[int]]:
    """Return the answers of one worker that runs one request after the other."""
    texts = []
    with Workers(model, decode_config=engine_config(num_blocks=400)) as workers:
        for index, prompt in enumerate(PROMPTS):
            params = sampling(index, GRAMMARS[index % len(GRAMMARS)])
            workers.submit(str(index), prompt, params, prefill=None)
            texts.append(workers.answers.finished(str(index)).tokens)
    return texts


def test_every_text_that_ended_has_its_form(undisturbed: list[list[int]]) -> None:
    num_complete = 0
    for index, tokens in enumerate(undisturbed):
        text = bytes(t for t in tokens if t < 256)
        if GRAMMARS[index % len(GRAMMARS)] is not None and len(tokens) < 150:
            num_complete += 1
            assert is_of_form(index, text.decode()), text
    assert num_complete >= 6


@pytest.mark.parametrize("source", [PREFILL, None])
def test_text_does_not_depend_on_the_batch_or_on_where_the_prompt_ran(
    model: Path, undisturbed: list[list[int]], source: str | None
) -> None:
    roomy = engine_config(num_blocks=400)
    with Workers(model, prefill_config=CHUNKS_OF_16, decode_config=roomy) as workers:
        answers = submit_all(workers, source)
        assert [answer.tokens for answer in answers] == undisturbed
        reasons = [
            a.finish_reason for a, t in zip(answers, undisturbed, strict=True) if len(t) < 40
        ]
        assert set(reasons) <= {FinishReason.STOP}
        workers.check_at_rest()


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_preempted_text_is_that_of_an_undisturbed_run(
    model: Path, undisturbed: list[list[int]], preemption: str
) -> None:
    tight = engine_config(num_blocks=16, preemption=preemption)
    with Workers(model, prefill_config=CHUNKS_OF_16, decode_config=tight) as workers:
        expect_short_answers(workers.decode)
        assert [answer.tokens for answer in submit_all(workers, PREFILL)] == undisturbed
        workers.check_at_rest()
        assert load_now(workers.decode).preemptions > 0


@pytest.mark.parametrize("source", [PREFILL, None])
def test_a_grammar_that_fails_in_flight_fails_its_request_alone(
    model: Path, undisturbed: list[list[int]], source: str | None
) -> None:
    with Workers(model, decode_config=engine_config(num_blocks=400)) as workers:
        workers.submit("doomed", PROMPTS[0], sampling(0, FAILS_IN_FLIGHT), prefill=source)
        answers = submit_all(workers, source)
        doomed = workers.answers.finished("doomed")
        assert doomed.failure is not None
        assert doomed.failure.reason is Reason.GRAMMAR_FAILED
        assert "too many" in doomed.failure.message
        assert len(doomed.tokens) >= 12
        assert [answer.tokens for answer in answers] == undisturbed
        workers.check_at_rest()


@pytest.mark.parametrize("source", [PREFILL, None])
def test_a_grammar_that_no_router_saw_fails_by_name(model: Path, source: str | None) -> None:
    with Workers(model) as workers:
        for name, grammar in (("syntax", regex("(a")), ("fuel", FAILS_AT_ONCE)):
            workers.submit(name, PROMPTS[0], sampling(0, grammar), prefill=source)
            failure = workers.answers.finished(name).failure
            assert failure is not None
            assert failure.reason is Reason.GRAMMAR_FAILED
        workers.check_at_rest()


@pytest.mark.parametrize("source", [PREFILL, None])
def test_one_token_may_be_all(model: Path, source: str | None) -> None:
    """The only token is sampled on the prefill worker, and the request ends there."""
    with Workers(model) as workers:
        workers.submit("r", PROMPTS[1], sampling(1, choice("x")), prefill=source)
        answer = workers.answers.finished("r")
        assert (answer.tokens, answer.finish_reason) == ([ord("x")], FinishReason.STOP)
        workers.check_at_rest()


@pytest.mark.parametrize("source", [PREFILL, None])
def test_continuations_of_one_prompt_have_matchers_of_their_own(
    model: Path, undisturbed: list[list[int]], source: str | None
) -> None:
    """Index 5 has its own seed; its neighbours in the group draw with others."""
    with Workers(model, decode_config=engine_config(num_blocks=400)) as workers:
        for seed in (5, 6, 7):
            params = replace(sampling(5, GRAMMARS[0]), seed=seed)
            request = WorkRequest(str(seed), 0, tuple(PROMPTS[5]), params, source, group="g")
            workers.decode.submit(request)
        texts = [workers.answers.finished(str(seed)).tokens for seed in (5, 6, 7)]
        assert texts[0] == undisturbed[5]
        assert len({tuple(text) for text in texts}) == 3
        workers.check_at_rest()


def test_cancelled_while_its_grammar_is_compiled(
    model: Path, undisturbed: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()

    class Slow(GrammarCompiler):
        def compile(self, grammar: Grammar) -> GrammarMatcher:
            gate.hold()
            return super().compile(grammar)

    monkeypatch.setattr(engine_grammar, "GrammarCompiler", Slow)
    with Workers(model) as workers:
        workers.submit("r", PROMPTS[0], sampling(0, GRAMMARS[0]), prefill=None)
        gate.wait_reached()
        workers.submit("free", PROMPTS[4], sampling(4, None), prefill=None)
        assert workers.answers.finished("free").tokens == undisturbed[4], "others go on"
        workers.decode.cancel("r")
        workers.submit("r", PROMPTS[0], sampling(0, GRAMMARS[0]), attempt=1, prefill=None)
        gate.open()
        assert workers.answers.finished("r").tokens == undisturbed[0]
        workers.check_at_rest()
