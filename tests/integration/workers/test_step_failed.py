"""A request whose steps raise ends alone, on either role; other requests and the worker go on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.engine.build import Engine
from common.engine.model_runner import TokenModel
from common.kv_transfer.wire import FailureHeader, decode_header
from common.messages import Grammar, GrammarKind, SamplingParams, WorkRequest
from pdserve.errors import Reason
from tests.integration.support.eight_prompts import PROMPTS, UNUSED_TOKEN, run_undisturbed, sampling
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    PREFILL,
    Workers,
    held,
    load_now,
    until,
)
from tests.unit.common.engine.breaking import BreakableModel, raising_on, with_model
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, save_model
from tests.unit.router.tiny_tokenizer import write_folder

POISON, BEGINNING = UNUSED_TOKEN, 12
EIGHT = engine_config(num_blocks=64, max_num_seqs=8)
# greedily nothing else is said
SAYS_POISON = SamplingParams(0.0, 0, 12, logit_bias=((POISON, 100.0),))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def healthy(model: Path) -> dict[int, list[int]]:
    """Return beginnings of texts without POISON, by prompt."""
    texts = {index: text[:BEGINNING] for index, text in enumerate(run_undisturbed(model))}
    texts = {index: text for index, text in texts.items() if POISON not in text}
    assert len(texts) >= 4
    return texts


def fails(workers: Workers, request_id: str, reason: Reason = Reason.STEP_FAILED) -> list[int]:
    """Wait for the request's failure; return the tokens before it."""
    answer = workers.answers.finished(request_id)
    assert answer.failure is not None
    assert answer.failure.reason is reason
    return answer.tokens


def begin(workers: Workers, index: int, prefill: str | None) -> None:
    workers.submit(str(index), PROMPTS[index], sampling(index, BEGINNING), prefill=prefill)


@pytest.mark.parametrize("prefill", [PREFILL, None])
@pytest.mark.parametrize("places", [{0}, {3}, {1, 2}, {0, 9}, set(range(4))], ids=str)
def test_prompts_that_raise_end_alone(
    model: Path, healthy: dict[int, list[int]], prefill: str | None, places: set[int]
) -> None:
    """Prompts raise before, among and behind others of the batch, one or several at once."""
    order: list[int | str] = list(healthy)
    for place in sorted(places):
        order.insert(place, f"poisoned-{place}")
    change = raising_on(POISON)
    with Workers(model, prefill_config=CHUNKS_OF_16, decode_config=EIGHT, change=change) as workers:
        for name in order:
            if isinstance(name, int):
                begin(workers, name, prefill)
            else:
                prompt = [*PROMPTS[1], POISON, *PROMPTS[2]]
                workers.submit(name, prompt, sampling(1), prefill=prefill)
        for place in places:
            assert fails(workers, f"poisoned-{place}") == []
        for index, text in healthy.items():
            assert workers.answers.finished(str(index)).tokens == text
        workers.check_at_rest()


@pytest.mark.parametrize("prefill", [PREFILL, None])
@pytest.mark.parametrize("number", [1, 2])
def test_bad_requests_alone_take_no_worker_down(
    model: Path, healthy: dict[int, list[int]], prefill: str | None, number: int
) -> None:
    """No other request runs that would show that the engine is sound; no prompt is found again."""
    with Workers(model, change=raising_on(POISON)) as workers:
        for name in range(number):
            prompt = [POISON] * (40 + name)
            workers.submit(f"poisoned-{name}", prompt, sampling(0), prefill=prefill)
        for name in range(number):
            assert fails(workers, f"poisoned-{name}") == []
        workers.check_at_rest()
        for worker in (workers.prefill, workers.decode):
            assert load_now(worker).blocks_cached == 0
        index, text = next(iter(healthy.items()))
        begin(workers, index, prefill)
        assert workers.answers.finished(str(index)).tokens == text
        workers.check_at_rest()


@pytest.mark.parametrize("prefill", [PREFILL, None])
@pytest.mark.parametrize("number", [1, 3])
def test_a_token_that_was_sampled_may_raise_too(
    model: Path, healthy: dict[int, list[int]], prefill: str | None, number: int
) -> None:
    """A token raises in the next step, on decode; tokens before it stay published."""
    with Workers(model, decode_config=EIGHT, change=raising_on(POISON)) as workers:
        for index in healthy:
            begin(workers, index, prefill)
        for name in range(number):
            workers.submit(f"poisoned-{name}", PROMPTS[name], SAYS_POISON, prefill=prefill)
        for name in range(number):
            assert fails(workers, f"poisoned-{name}") == [POISON]
        for index, text in healthy.items():
            assert workers.answers.finished(str(index)).tokens == text
        workers.check_at_rest()


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_broken_engine_still_ends_its_worker(model: Path, role: str) -> None:
    models: list[BreakableModel] = []

    def breakable(engine: Engine) -> Engine:
        def wrap(token_model: TokenModel) -> BreakableModel:
            models.append(BreakableModel(token_model))
            return models[-1]

        return with_model(engine, wrap)

    with Workers(model, change=breakable) as workers:
        on_prefill, on_decode = models
        (on_prefill if role == "prefill" else on_decode).error = MemoryError("all of it")
        workers.submit("r", PROMPTS[0], sampling(0, 3))
        broken = workers.prefill if role == "prefill" else workers.decode
        until(lambda: not broken._loop._thread.is_alive(), "dead")
        assert [type(error) for error in workers.crashes] == [MemoryError]
        assert not workers.answers.has_ended("r")


def bad(prompt: tuple[int, ...], **changes: object) -> WorkRequest:
    plain = replace(SamplingParams(0.0, 0, 4), **changes)  # type: ignore[arg-type]
    return WorkRequest("bad", 0, prompt, plain, prefill_worker=PREFILL)


REFUSED = {
    "a token beyond the vocabulary": (bad((1, VOCAB)), Reason.TOKEN_OUT_OF_VOCABULARY),
    "a negative token": (bad((-1, 1)), Reason.TOKEN_OUT_OF_VOCABULARY),
    "a bias beyond it": (bad((1,), logit_bias=((VOCAB, 1.0),)), Reason.TOKEN_OUT_OF_VOCABULARY),
    "an end beyond it": (
        bad((1,), stop_token_ids=(VOCAB,), min_tokens=2),
        Reason.TOKEN_OUT_OF_VOCABULARY,
    ),
    "positions beyond the context": (bad((1,) * 513), Reason.CONTEXT_EXCEEDED),
    "no token": (bad(()), Reason.EMPTY_PROMPT),
}


@pytest.mark.parametrize(("request_", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_no_step_may_run_is_refused_at_both_doors(
    model: Path, healthy: dict[int, list[int]], request_: WorkRequest, reason: Reason
) -> None:
    with Workers(model) as workers:
        index, text = next(iter(healthy.items()))
        begin(workers, index, PREFILL)
        workers.decode.submit(request_)
        assert fails(workers, "bad", reason) == []
        ((header, payload),) = workers.source.stream(request_)
        failure = decode_header(header)
        assert payload is None
        assert isinstance(failure, FailureHeader)
        assert (failure.request_id, failure.reason) == ("bad", reason)
        assert workers.answers.finished(str(index)).tokens == text
        workers.check_at_rest()


def test_a_prefill_worker_refuses_positions_that_the_prompt_does_not_have(model: Path) -> None:
    with Workers(model) as workers:
        request = replace(bad((1, 2)), num_held_tokens=3)
        ((header, _),) = workers.source.stream(request)
        failure = decode_header(header)
        assert isinstance(failure, FailureHeader)
        assert failure.reason == Reason.INTERNAL
        assert held(workers.prefill) == 0
        workers.check_at_rest()


def test_a_grammar_of_tokens_that_the_model_does_not_have_ends_alone(
    tmp_path: Path, healthy: dict[int, list[int]]
) -> None:
    """The tokenizer has 259 tokens, the model 101: a request without an allowed token ends."""
    folder = write_folder(save_model(tmp_path, "llama"))
    with Workers(folder, decode_config=EIGHT) as workers:
        for index in healthy:
            begin(workers, index, PREFILL)
        for prefill in (PREFILL, None):
            for name, pattern in (("fits", "[A-Z]{3}-[0-9]{4}"), ("beyond", "A[x-z]+")):
                grammar = Grammar(GrammarKind.REGEX, (pattern,))
                asked = SamplingParams(0.7, 3, 20, grammar=grammar)
                workers.submit(f"{name}-{prefill}", PROMPTS[0], asked, prefill=prefill)
        for prefill in (PREFILL, None):
            said = bytes(workers.answers.finished(f"fits-{prefill}").tokens).decode()
            assert len(said) == 8
            assert said[3] == "-"
            assert fails(workers, f"beyond-{prefill}", Reason.NO_TOKEN_LEFT) == [ord("A")]
        for index, text in healthy.items():
            assert workers.answers.finished(str(index)).tokens == text
        workers.check_at_rest()
