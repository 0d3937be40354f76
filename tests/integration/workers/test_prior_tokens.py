"""Requests that come with a part of their output go on exactly as if they had never moved."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.messages import SamplingParams, WorkRequest
from pdserve.errors import Reason
from tests.integration.support.in_process_workers import CHUNKS_OF_16, PREFILL, Answer, Workers
from tests.integration.support.kv_faults import die_at, meddle
from tests.unit.common.engine.tiny_models import engine_config, save_model
from tests.unit.common.grammar.allowed import EOS, VOCAB, schema
from tests.unit.router.tiny_tokenizer import write_folder

PROMPT = tuple((11 * i + 5) % VOCAB for i in range(40))
NUM_TOKENS = 24
RECORD = {
    "type": "object",
    "properties": {"id": {"type": "integer", "minimum": 10000, "maximum": 99999}},
    "required": ["id"],
    "additionalProperties": False,
}
GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=NUM_TOKENS, ignore_eos=True)
KINDS = {
    "greedy": GREEDY,
    "seeded": replace(GREEDY, temperature=0.9, seed=5),
    "top-k and top-p": replace(GREEDY, temperature=1.1, seed=6, top_k=40, top_p=0.9),
    "penalties": replace(
        GREEDY,
        temperature=0.8,
        seed=7,
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.5,
    ),
    "logprobs": replace(GREEDY, temperature=0.7, seed=8, logprobs=3),
    "bans": replace(
        GREEDY,
        ignore_eos=False,
        min_tokens=20,
        bad_words=((7, 8), (3,)),
        stop_token_ids=(1, 2, 4, 5, 6, 7),
    ),
    "json_schema": replace(
        GREEDY,
        temperature=0.9,
        seed=9,
        ignore_eos=False,
        max_tokens=40,
        grammar=schema(json.dumps(RECORD)),
    ),
}
BREAKS = (1, 2, 7, 8, 9, 15, 23)  # blocks have 16 positions, of which the prompt takes 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(
        tmp_path_factory.mktemp("llama"), "llama", vocab_size=VOCAB, eos_token_id=EOS
    )
    return write_folder(folder)


@pytest.fixture(scope="module")
def workers(model: Path) -> Iterator[Workers]:
    config = engine_config(num_blocks=200)
    with Workers(model, prefill_config=CHUNKS_OF_16, decode_config=config) as workers:
        yield workers
        workers.check_at_rest()


def begin_behind(workers: Workers, request_id: str, tokens: list[int]) -> None:
    """Expect a request that moves here with these tokens of its output."""
    workers.answers._answers[request_id] = Answer(list(tokens))


def run(
    workers: Workers, name: str, sampling: SamplingParams, prior: list[int], prefill: str | None
) -> Answer:
    begin_behind(workers, name, prior)
    request = WorkRequest(
        name, 1, PROMPT, sampling, prefill, cache_salt=name, prior_token_ids=tuple(prior)
    )
    workers.decode.submit(request)
    return workers.answers.finished(name)


@pytest.mark.parametrize("source", [None, PREFILL], ids=["local", "pulled"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_is_what_an_undisturbed_run_gives(
    workers: Workers, kind: str, source: str | None
) -> None:
    sampling = KINDS[kind]
    whole = run(workers, f"{kind}/{source}/whole", sampling, [], source)
    assert whole.finish_reason is not None
    for num_prior in (at for at in BREAKS if at < len(whole.tokens)):
        name = f"{kind}/{source}/{num_prior}"
        rest = run(workers, name, sampling, whole.tokens[:num_prior], source)
        assert rest.tokens == whole.tokens, num_prior
        assert rest.finish_reason == whole.finish_reason
        if sampling.logprobs:
            assert rest.logprobs == whole.logprobs[num_prior:]


def test_prefixes_held_here_are_not_computed_again(workers: Workers) -> None:
    whole = run(workers, "hit", GREEDY, [], None)
    begin_behind(workers, "again", whole.tokens[:20])
    prior = tuple(whole.tokens[:20])
    workers.decode.submit(
        WorkRequest("again", 2, PROMPT, GREEDY, cache_salt="hit", prior_token_ids=prior)
    )
    rest = workers.answers.finished("again")
    assert rest.tokens == whole.tokens
    assert rest.timings is not None
    assert rest.timings.num_cached_tokens == 48, "three whole blocks of prompt and output"


def test_prefill_may_die_under_a_moved_request_too(model: Path) -> None:
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        whole = run(workers, "whole", KINDS["seeded"], [], None)
    with Workers(model, prefill_config=CHUNKS_OF_16, wrap=meddle(die_at(1))) as workers:
        rest = run(workers, "rest", KINDS["seeded"], whole.tokens[:9], PREFILL)
        workers.check_at_rest()
    assert rest.tokens == whole.tokens


def test_choices_that_move_with_their_own_output_share_the_prompt(workers: Workers) -> None:
    options = [replace(KINDS["seeded"], seed=seed) for seed in (11, 12, 13)]
    wholes = [
        run(workers, f"choice-{number}", sampling, [], None)
        for number, sampling in enumerate(options)
    ]
    names = [f"moved-{number}" for number in range(3)]
    for name, sampling, whole, num_prior in zip(names, options, wholes, (0, 5, 17), strict=True):
        begin_behind(workers, name, whole.tokens[:num_prior])
        prior = tuple(whole.tokens[:num_prior])
        workers.decode.submit(
            WorkRequest(name, 2, PROMPT, sampling, PREFILL, group="moved", prior_token_ids=prior)
        )
    rests = [workers.answers.finished(name) for name in names]
    assert [rest.tokens for rest in rests] == [whole.tokens for whole in wholes]
    cached = [rest.timings.num_cached_tokens for rest in rests if rest.timings]
    assert sorted(cached) == [0, 32, 32], "the first to enter computes the prompt for all"


def test_an_output_that_leaves_nothing_to_generate_is_refused(workers: Workers) -> None:
    begin_behind(workers, "full", [])
    prior = tuple(range(NUM_TOKENS))
    workers.decode.submit(WorkRequest("full", 2, PROMPT, GREEDY, prior_token_ids=prior))
    answer = workers.answers.finished("full")
    assert answer.failure is not None
    assert answer.failure.reason is Reason.INTERNAL
    workers.answers.forget("full")
