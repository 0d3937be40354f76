"""Prompts that begin alike: less is computed and sent, and the text is that of `transformers`.

Blocks have 16 positions, so a prompt of 100 tokens leaves 6 whole ones.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.messages import SamplingParams, WorkRequest
from common.timings import WorkTimings
from tests.integration.support.in_process_workers import CHUNKS_OF_16, Workers, load_now
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    load_reference,
    save_model,
)

DRAW = random.Random(11)
PROMPT = [DRAW.randrange(VOCAB) for _ in range(100)]
KV_BYTES = 512  # of one token
NEW_TOKENS = 24
GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=NEW_TOKENS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def reference(model: Path) -> Any:
    return load_reference(model)


@pytest.fixture(scope="module")
def workers(model: Path) -> Iterator[Workers]:
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        yield workers


def ask(
    workers: Workers, name: str, prompt: list[int], *, salt: str, prefill: str | None = "prefill-0"
) -> tuple[list[int], WorkTimings]:
    workers.submit(name, prompt, GREEDY, salt=salt, prefill=prefill)
    answer = workers.answers.finished(name)
    assert answer.timings is not None
    workers.check_at_rest()
    return answer.tokens, answer.timings


@pytest.mark.parametrize("prefill", ["prefill-0", None])
def test_a_second_prompt_is_computed_and_shipped_from_where_they_part(
    workers: Workers, reference: Any, prefill: str | None
) -> None:
    other = PROMPT[:70] + [DRAW.randrange(VOCAB) for _ in range(30)]
    salt = f"part-{prefill}"
    for name, prompt, cached in (("first", PROMPT, 0), ("second", other, 64)):
        tokens, timings = ask(workers, salt + name, prompt, salt=salt, prefill=prefill)
        assert tokens == continue_greedily(reference, prompt, NEW_TOKENS)
        assert timings.num_cached_tokens == cached
        assert sum(chunk.num_tokens for chunk in timings.prefill_chunks) == 100 - cached
        assert timings.kv_bytes == ((100 - cached) * KV_BYTES if prefill else 0)


def test_the_next_turn_of_a_chat_finds_the_last_answer(workers: Workers, reference: Any) -> None:
    tokens, _ = ask(workers, "turn-1", PROMPT, salt="chat", prefill=None)
    turn = PROMPT + tokens + PROMPT[:10]
    expected = continue_greedily(reference, turn, NEW_TOKENS)
    tokens, timings = ask(workers, "turn-2", turn, salt="chat", prefill=None)
    assert tokens == expected
    # 100 + 24 tokens, of which the last has no KV: 7 whole blocks
    assert timings.num_cached_tokens == 112


def test_decode_takes_only_what_it_lacks_and_prefill_computes_only_what_it_lacks(
    workers: Workers, reference: Any
) -> None:
    tokens, _ = ask(workers, "both-1", PROMPT, salt="both")
    turn = PROMPT + tokens + PROMPT[:10]
    tokens, timings = ask(workers, "both-2", turn, salt="both")
    assert tokens == continue_greedily(reference, turn, NEW_TOKENS)
    assert timings.num_cached_tokens == 96  # prefill never saw the answer
    assert timings.kv_bytes == (len(turn) - 112) * KV_BYTES  # decode did


def test_prefill_ships_what_decode_has_lost(workers: Workers, reference: Any) -> None:
    """Only decode forgets; KV that prefill still holds is sent without being computed."""
    ask(workers, "lost-1", PROMPT, salt="lost")
    fill = [[DRAW.randrange(VOCAB) for _ in range(500)] for _ in range(2)]
    for index, prompt in enumerate(fill):
        ask(workers, f"fill-{index}", prompt, salt="fill", prefill=None)
    tokens, timings = ask(workers, "lost-2", PROMPT, salt="lost")
    assert tokens == continue_greedily(reference, PROMPT, NEW_TOKENS)
    assert timings.num_cached_tokens == 96
    assert timings.kv_bytes == 100 * KV_BYTES
    assert [chunk.num_tokens for chunk in timings.prefill_chunks] == [4]


def test_another_salt_finds_nothing(workers: Workers) -> None:
    ask(workers, "mine", PROMPT, salt="mine")
    _, timings = ask(workers, "yours", PROMPT, salt="yours")
    assert timings.num_cached_tokens == 0


def test_twenty_at_once_with_one_prefix_answer_as_each_alone(
    workers: Workers, reference: Any
) -> None:
    prompts = [PROMPT[:80] + [index] * (index + 1) for index in range(20)]
    for index, prompt in enumerate(prompts):
        route = "prefill-0" if index % 2 else None
        workers.submit(f"crowd-{index}", prompt, GREEDY, salt="crowd", prefill=route)
    for index, prompt in enumerate(prompts):
        tokens = workers.answers.finished(f"crowd-{index}").tokens
        assert tokens == continue_greedily(reference, prompt, NEW_TOKENS)
    workers.check_at_rest()


@pytest.mark.parametrize("prefill", ["prefill-0", None])
def test_a_group_computes_and_ships_its_prompt_once(workers: Workers, prefill: str | None) -> None:
    """The prompt has 96 of 100 tokens in whole blocks; each member of the group runs the other 4."""
    before = [load_now(worker) for worker in (workers.prefill, workers.decode)]
    names = [f"group-{prefill}-{index}" for index in range(5)]
    for seed, name in enumerate(names):
        sampling = SamplingParams(temperature=0.9, seed=seed, max_tokens=20)
        tag = f"group-{prefill}"
        workers.decode.submit(
            WorkRequest(name, 1, tuple(PROMPT), sampling, prefill, cache_salt=tag, group=tag)
        )
    texts = {tuple(workers.answers.finished(name).tokens) for name in names}
    assert len(texts) == 5
    workers.check_at_rest()
    after = [load_now(worker) for worker in (workers.prefill, workers.decode)]
    ran = [
        now.prefill_tokens - then.prefill_tokens for now, then in zip(after, before, strict=True)
    ]
    assert ran == ([100 + 4 * 4, 0] if prefill else [0, 100 + 4 * 4])
    shipped = after[1].kv_bytes - before[1].kv_bytes
    assert shipped == ((100 + 4 * 4) * KV_BYTES if prefill else 0)
