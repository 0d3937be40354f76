"""Bad words, allowed tokens, min_tokens and forms together over real workers, wherever a prompt runs."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from common.messages import FinishReason, SamplingParams
from pdserve.errors import Reason
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    PREFILL,
    Workers,
    expect_short_answers,
    load_now,
)
from tests.integration.support.kv_faults import die_at, meddle
from tests.unit.common.engine.tiny_models import engine_config, load_reference, save_model
from tests.unit.common.grammar.allowed import EOS, VOCAB, regex
from tests.unit.router.tiny_tokenizer import write_folder

PROMPT = [(11 * i + 5) % 250 for i in range(40)]
GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=60, ignore_eos=True)
DRAWN = replace(GREEDY, temperature=1.5, min_tokens=60, top_k=40)
NUM_TOKENS = 60
Words = tuple[tuple[int, ...], ...]
SOURCES = pytest.mark.parametrize("source", [PREFILL, None])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("llama"))
    return save_model(folder, "llama", vocab_size=VOCAB, eos_token_id=EOS)


@pytest.fixture(scope="module")
def workers(model: Path) -> Iterator[Workers]:
    roomy = engine_config(num_blocks=400)
    with Workers(model, prefill_config=CHUNKS_OF_16, decode_config=roomy) as workers:
        yield workers


@cache
def generate(model: Path, bad_words: Words) -> list[int]:
    """Return the greedy answer of `transformers`."""
    reference: Any = load_reference(model)
    asked = {"bad_words_ids": [list(word) for word in bad_words]} if bad_words else {}
    answer: list[int] = reference.generate(
        torch.tensor([PROMPT]),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
        **asked,
    )[0, len(PROMPT) :].tolist()
    return answer


@pytest.fixture(scope="module")
def bad_words(model: Path) -> Words:
    """Words of one to four tokens, each of which would come without the others."""
    found: list[tuple[int, ...]] = []
    for length, at in ((2, 4), (3, 9), (4, 20), (2, 33), (3, 50), (1, 40)):
        found.append(tuple(generate(model, tuple(found))[at : at + length]))
    return tuple(found)


def count(words: Words, tokens: list[int]) -> int:
    return sum(
        tuple(tokens[at : at + len(word)]) == word for word in words for at in range(len(tokens))
    )


@SOURCES
def test_an_answer_without_bad_words_is_that_of_transformers(
    workers: Workers, model: Path, bad_words: Words, source: str | None
) -> None:
    expected = generate(model, bad_words)
    assert count(bad_words, generate(model, ())) > 0
    workers.submit(f"bad-{source}", PROMPT, replace(GREEDY, bad_words=bad_words), prefill=source)
    answer = workers.answers.finished(f"bad-{source}")
    assert answer.tokens == expected
    assert count(bad_words, answer.tokens) == 0
    workers.check_at_rest()


@SOURCES
def test_the_first_token_may_be_a_bad_word_and_may_begin_one(
    workers: Workers, model: Path, source: str | None
) -> None:
    first, second = generate(model, ())[:2]
    for name, words in (("one", ((first,),)), ("two", ((first, second),))):
        asked = replace(GREEDY, bad_words=words)
        workers.submit(f"{name}-{source}", PROMPT, asked, prefill=source)
        assert workers.answers.finished(f"{name}-{source}").tokens == generate(model, words)


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_preemption_forgets_no_bad_word(
    workers: Workers, model: Path, bad_words: Words, preemption: str
) -> None:
    seeds, alone = range(6), []
    asked = replace(DRAWN, bad_words=(*bad_words, (7, 8, 9)), allowed_token_ids=tuple(range(40)))
    for seed in seeds:
        name = f"{preemption}-{seed}"
        workers.submit(name, PROMPT, replace(asked, seed=seed), prefill=None)
        alone.append(workers.answers.finished(name).tokens)
    tight = engine_config(num_blocks=12, max_batch_tokens=24, max_num_seqs=8, preemption=preemption)
    with Workers(model, decode_config=tight) as pressed:
        expect_short_answers(pressed.decode)
        for seed in seeds:
            pressed.submit(f"r-{seed}", PROMPT, replace(asked, seed=seed), prefill=None)
        answers = [pressed.answers.finished(f"r-{seed}").tokens for seed in seeds]
        pressed.check_at_rest()
        assert load_now(pressed.decode).preemptions > 0
    assert answers == alone
    assert {len(tokens) for tokens in answers} == {NUM_TOKENS}
    assert all(set(tokens) <= set(range(40)) for tokens in answers)
    assert sum(count(asked.bad_words, tokens) for tokens in answers) == 0


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_prefill_worker_that_dies_costs_no_ban(model: Path, bad_words: Words, place: int) -> None:
    """Token 1 is item 2."""
    asked = replace(GREEDY, bad_words=bad_words)
    with Workers(model, prefill_config=CHUNKS_OF_16, wrap=meddle(die_at(place))) as broken:
        broken.submit("r", PROMPT, asked)
        assert broken.answers.finished("r").tokens == generate(model, bad_words)
        broken.check_at_rest()
        assert load_now(broken.decode).prefill_fallbacks == 1


@SOURCES
def test_allowed_tokens_alone_come(workers: Workers, source: str | None) -> None:
    asked = replace(GREEDY, allowed_token_ids=(3, 77, EOS), ignore_eos=False, min_tokens=5)
    workers.submit(f"allowed-{source}", PROMPT, asked, prefill=source)
    tokens = workers.answers.finished(f"allowed-{source}").tokens
    assert set(tokens) <= {3, 77, EOS}
    assert EOS not in tokens[:5]


DIGITS = tuple(b"0123456789")
FORM = replace(GREEDY, ignore_eos=False, grammar=regex("[0-9]{4,8}"))
FROM_THE_START = {
    "stops": replace(FORM, min_tokens=4, stop_token_ids=DIGITS),
    "allowed": replace(FORM, allowed_token_ids=(ord("a"), EOS)),
    "bad words": replace(FORM, bad_words=tuple((digit,) for digit in DIGITS)),
    "no token of the model": replace(FORM, grammar=regex("x"), bad_words=((ord("x"),),)),
}
LATER = {
    "bad word": (replace(FORM, grammar=regex("abcd"), bad_words=(tuple(b"bc"),)), b"ab"),
    "allowed": (replace(FORM, grammar=regex("ab[0-9]"), allowed_token_ids=tuple(b"ab")), b"ab"),
    "stops": (
        replace(FORM, grammar=regex("ab[0-9]+"), min_tokens=4, stop_token_ids=DIGITS),
        b"ab",
    ),
    "token 2": (replace(FORM, grammar=regex("a[0-9]"), allowed_token_ids=(97,)), b"a"),
}


@SOURCES
@pytest.mark.parametrize("name", FROM_THE_START)
def test_what_leaves_no_first_token_is_invalid(
    workers: Workers, name: str, source: str | None
) -> None:
    request_id = f"{name}-{source}-start"
    workers.submit(request_id, PROMPT, FROM_THE_START[name], prefill=source)
    answer = workers.answers.finished(request_id)
    assert answer.tokens == []
    assert answer.failure is not None
    assert answer.failure.reason is Reason.INVALID_FIELD
    assert "structured_output and " in answer.failure.message
    assert load_now(workers.decode).prefill_fallbacks == 0
    workers.check_at_rest()


@SOURCES
@pytest.mark.parametrize("name", LATER)
def test_what_leaves_no_token_later_ends_by_a_name_of_its_own(
    workers: Workers, name: str, source: str | None
) -> None:
    request_id = f"{name}-{source}-later"
    asked, text = LATER[name]
    workers.submit(request_id, PROMPT, asked, prefill=source)
    answer = workers.answers.finished(request_id)
    assert bytes(answer.tokens) == text
    assert answer.failure is not None
    assert answer.failure.reason is Reason.NO_TOKEN_LEFT
    workers.check_at_rest()


@SOURCES
def test_a_form_that_is_complete_ends_whatever_is_forbidden(
    workers: Workers, source: str | None
) -> None:
    """Nothing may follow, so that no token is needed to say so."""
    asked = replace(
        FORM, grammar=regex("ab"), min_tokens=9, allowed_token_ids=tuple(b"ab"), max_tokens=9
    )
    workers.submit(f"whole-{source}", PROMPT, asked, prefill=source)
    answer = workers.answers.finished(f"whole-{source}")
    assert (bytes(answer.tokens), answer.finish_reason) == (b"ab", FinishReason.STOP)


@SOURCES
def test_a_stop_token_inside_a_form_ends_it_unfinished(
    workers: Workers, source: str | None
) -> None:
    asked = replace(FORM, grammar=regex("abc"), stop_token_ids=(ord("b"),))
    workers.submit(f"cut-{source}", PROMPT, asked, prefill=source)
    answer = workers.answers.finished(f"cut-{source}")
    assert (bytes(answer.tokens), answer.finish_reason) == (b"ab", FinishReason.STOP)
