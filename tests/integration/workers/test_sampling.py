"""Sampling and log-probabilities are the same wherever a prompt runs and whatever happens to it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.messages import SamplingParams, TokenLogprobs
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    PREFILL,
    Answer,
    Workers,
    expect_short_answers,
    load_now,
)
from tests.integration.support.kv_faults import die_at, meddle
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, load_reference, save_model

PROMPT = [(11 * i + 5) % VOCAB for i in range(40)]
GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=12)
EVERYTHING = SamplingParams(
    temperature=1.2,
    seed=9,
    max_tokens=20,
    stop_token_ids=tuple(range(50)),
    top_k=60,
    top_p=0.95,
    min_p=0.001,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    logit_bias=((70, 2.0), (71, -5.0)),
    min_tokens=15,
    logprobs=2,
    prompt_logprobs=3,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def workers(model: Path) -> Iterator[Workers]:
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        yield workers


def check_logprobs(model: Path, answer: Answer, k_prompt: int, k_output: int) -> None:
    """Compare all log-probabilities with one pass of `transformers` over prompt and output."""
    tokens = PROMPT + answer.tokens
    reference: Any = load_reference(model)
    with torch.inference_mode():
        logits = reference(torch.tensor([tokens])).logits[0, :-1].double()
    expected = torch.log_softmax(logits, dim=-1)
    entries: list[TokenLogprobs] = [*answer.prompt_logprobs, *answer.logprobs]
    assert (len(answer.prompt_logprobs), len(answer.logprobs)) == (39, len(answer.tokens))
    for at, (entry, row) in enumerate(zip(entries, expected, strict=True)):
        top = row.topk(k_prompt if at < len(PROMPT) - 1 else k_output)
        assert entry.logprob == pytest.approx(float(row[tokens[at + 1]]), abs=1e-3)
        assert list(entry.top_token_ids) == top.indices.tolist()
        assert list(entry.top_logprobs) == pytest.approx(top.values.tolist(), abs=1e-3)


@pytest.mark.parametrize("prefill", [PREFILL, None])
def test_penalised_greedy_text_is_that_of_transformers(
    workers: Workers, model: Path, prefill: str | None
) -> None:
    reference: Any = load_reference(model)
    ids = torch.tensor([PROMPT])
    plain = reference.generate(ids, max_new_tokens=12, do_sample=False)[0, 40:].tolist()
    expected = reference.generate(
        ids,
        max_new_tokens=12,
        do_sample=False,
        repetition_penalty=1.6,
        sequence_bias=[[[plain[0]], -4.0], [[8], 3.0]],
    )[0, 40:].tolist()
    assert expected != plain
    sampling = replace(GREEDY, repetition_penalty=1.6, logit_bias=((8, 3.0), (plain[0], -4.0)))
    workers.submit(f"penalised-{prefill}", PROMPT, sampling, prefill=prefill)
    assert workers.answers.finished(f"penalised-{prefill}").tokens == expected


@pytest.mark.parametrize("prefill", [PREFILL, None])
def test_log_probabilities_are_those_of_transformers(
    workers: Workers, model: Path, prefill: str | None
) -> None:
    before = [load_now(worker) for worker in (workers.prefill, workers.decode)]
    for name in ("scored", "again"):  # the second time all of the prompt could be found in a cache
        workers.submit(f"{name}-{prefill}", PROMPT, EVERYTHING, prefill=prefill)
        answer = workers.answers.finished(f"{name}-{prefill}")
        check_logprobs(model, answer, 3, 2)
    workers.check_at_rest()
    after = [load_now(worker) for worker in (workers.prefill, workers.decode)]
    ran = [a.prefill_tokens - b.prefill_tokens for a, b in zip(after, before, strict=True)]
    assert ran == ([80, 0] if prefill else [0, 80])


def test_it_makes_no_difference_where_the_prompt_ran(workers: Workers) -> None:
    answers = []
    for prefill in (PREFILL, None):
        workers.submit(f"where-{prefill}", PROMPT, EVERYTHING, prefill=prefill)
        answers.append(workers.answers.finished(f"where-{prefill}"))
    assert answers[0].tokens == answers[1].tokens
    assert len(set(answers[0].tokens)) > 3
    for here, there in zip(answers[0].logprobs, answers[1].logprobs, strict=True):
        assert here.top_token_ids == there.top_token_ids


def test_min_tokens_come_before_a_stop_token(workers: Workers) -> None:
    for seed in range(6):
        workers.submit(f"min-{seed}", PROMPT, replace(EVERYTHING, seed=seed))
        tokens = workers.answers.finished(f"min-{seed}").tokens
        assert all(token >= 50 for token in tokens[:15])
        ends = [at for at, token in enumerate(tokens) if token < 50]
        assert ends in ([], [len(tokens) - 1])


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_prefill_worker_that_dies_costs_no_log_probability(
    workers: Workers, model: Path, place: int
) -> None:
    """Token 1 and the prompt's log-probabilities are item 2."""
    workers.submit("undisturbed", PROMPT, EVERYTHING)
    expected = workers.answers.finished("undisturbed")
    workers.answers.forget("undisturbed")
    with Workers(model, prefill_config=CHUNKS_OF_16, wrap=meddle(die_at(place))) as broken:
        broken.submit("r", PROMPT, EVERYTHING)
        answer = broken.answers.finished("r")
        broken.check_at_rest()
        assert load_now(broken.decode).prefill_fallbacks == 1
    assert answer.tokens == expected.tokens
    check_logprobs(model, answer, 3, 2)


@pytest.mark.parametrize("mode", ["swap", "recompute"])
def test_preemption_changes_nothing(workers: Workers, model: Path, mode: str) -> None:
    sampling = replace(EVERYTHING, max_tokens=60, min_tokens=60)
    seeds = range(6)
    alone = []
    for seed in seeds:
        workers.submit(f"{mode}-{seed}", PROMPT, replace(sampling, seed=seed), prefill=None)
        alone.append(workers.answers.finished(f"{mode}-{seed}"))
    tight = engine_config(num_blocks=12, max_batch_tokens=24, max_num_seqs=8, preemption=mode)
    with Workers(model, decode_config=tight) as pressed:
        expect_short_answers(pressed.decode)
        for seed in seeds:
            pressed.submit(f"r-{seed}", PROMPT, replace(sampling, seed=seed), prefill=None)
        answers = [pressed.answers.finished(f"r-{seed}") for seed in seeds]
        pressed.check_at_rest()
        assert load_now(pressed.decode).preemptions > 0
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in alone]
    for answer in answers:
        check_logprobs(model, answer, 3, 2)
