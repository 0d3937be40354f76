"""Prompts run on a prefill worker and tokens on a decode worker: the text is that of `transformers`."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from common.engine.memory.kv_cache import kv_layout
from common.kv_transfer.node_store import FixedStore
from common.messages import FinishReason, SamplingParams
from tests.integration.support.in_process_workers import CHUNKS_OF_16, Workers, load_now, until
from tests.integration.support.kv_faults import Gate, hold_at, meddle
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    save_model,
)

NEW_TOKENS = 8
DRAW = random.Random(5)
PROMPTS = [[DRAW.randrange(VOCAB) for _ in range(n)] for n in (1, 2, 15, 16, 17, 40, 100)]
GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=NEW_TOKENS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    reference: Any = load_reference(model)
    return [continue_greedily(reference, prompt, NEW_TOKENS) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def workers(model: Path) -> Iterator[Workers]:
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        yield workers


def answer_all(workers: Workers, tag: str, prefill: str | None = "prefill-0") -> list[list[int]]:
    """Answer all prompts at once."""
    for index, prompt in enumerate(PROMPTS):
        workers.submit(f"{tag}-{index}", prompt, GREEDY, prefill=prefill, salt=tag)
    answers = [workers.answers.finished(f"{tag}-{index}") for index in range(len(PROMPTS))]
    assert {answer.finish_reason for answer in answers} == {FinishReason.LENGTH}
    return [answer.tokens for answer in answers]


def test_handed_off_text_is_that_of_transformers(
    workers: Workers, expected: list[list[int]]
) -> None:
    before = load_now(workers.decode)
    assert answer_all(workers, "handoff") == expected
    workers.check_at_rest()
    after = load_now(workers.decode)
    assert after.prefill_tokens == before.prefill_tokens, "decode recomputed something"
    assert after.prefill_fallbacks == after.kv_rejected == 0
    num_tokens = sum(map(len, PROMPTS))
    layout = kv_layout(workers.decode._engine._engine.spec)
    assert after.kv_bytes - before.kv_bytes == layout.num_bytes(num_tokens)


def test_local_text_is_that_of_transformers(workers: Workers, expected: list[list[int]]) -> None:
    before = load_now(workers.decode)
    assert answer_all(workers, "local", prefill=None) == expected
    workers.check_at_rest()
    after = load_now(workers.decode)
    assert after.kv_bytes == before.kv_bytes
    assert after.prefill_tokens - before.prefill_tokens == sum(map(len, PROMPTS))


def test_sampled_text_does_not_depend_on_where_the_prompt_ran(workers: Workers) -> None:
    sampling = SamplingParams(temperature=0.9, seed=77, max_tokens=20)
    for name, prefill in (("s-local", None), ("s-handoff", "prefill-0")):
        workers.submit(name, PROMPTS[5], sampling, prefill=prefill)
    local, handoff = (workers.answers.finished(n).tokens for n in ("s-local", "s-handoff"))
    assert local == handoff
    assert len(set(local)) > 5
    workers.check_at_rest()


@pytest.mark.parametrize("prefill", ["prefill-0", None])
def test_one_token_is_enough(
    workers: Workers, expected: list[list[int]], prefill: str | None
) -> None:
    name = f"one-{prefill}"
    workers.submit(name, PROMPTS[5], SamplingParams(0.0, 0, max_tokens=1), prefill=prefill)
    answer = workers.answers.finished(name)
    assert answer.tokens == expected[5][:1]
    assert answer.finish_reason is FinishReason.LENGTH
    workers.check_at_rest()


@pytest.mark.parametrize("place", [0, 3])
def test_a_stop_token_ends_the_text_wherever_it_comes(
    workers: Workers, expected: list[list[int]], place: int
) -> None:
    stop = expected[6][place]
    first = expected[6].index(stop)
    sampling = SamplingParams(0.0, 0, max_tokens=NEW_TOKENS, stop_token_ids=(stop,))
    workers.submit(f"stop-{place}", PROMPTS[6], sampling)
    answer = workers.answers.finished(f"stop-{place}")
    assert answer.tokens == expected[6][: first + 1]
    assert answer.finish_reason is FinishReason.STOP
    workers.check_at_rest()


def test_a_finished_id_may_come_again_and_is_handed_off_again(
    workers: Workers, expected: list[list[int]]
) -> None:
    before = load_now(workers.prefill).prefill_tokens
    for prompt, tokens in zip(PROMPTS[4:6], expected[4:6], strict=True):
        workers.submit("again", prompt, GREEDY, salt="again")
        assert workers.answers.finished("again").tokens == tokens
        workers.check_at_rest()
        workers.answers.forget("again")
    assert load_now(workers.decode).prefill_fallbacks == 0
    assert load_now(workers.prefill).prefill_tokens - before == 57


def test_the_answer_says_where_the_time_went(workers: Workers) -> None:
    workers.submit("timed", PROMPTS[5], GREEDY, salt="timed")
    timings = workers.answers.finished("timed").timings
    assert timings is not None
    assert [chunk.num_tokens for chunk in timings.prefill_chunks] == [16, 16, 8]
    starts = [chunk.start_s for chunk in timings.prefill_chunks]
    assert starts == sorted(starts)
    assert timings.queue_s == starts[0] >= 0
    assert timings.handoff_s > 0
    assert timings.kv_bytes == 40 * 512


def test_token_1_is_there_before_the_last_kv(model: Path, expected: list[list[int]]) -> None:
    gate = Gate()
    with Workers(model, prefill_config=CHUNKS_OF_16, wrap=meddle(hold_at(3, gate))) as workers:
        workers.submit("r", PROMPTS[5], GREEDY)
        gate.wait_reached()
        early = workers.answers.wait("r", lambda answer: bool(answer.tokens))
        assert early.tokens == expected[5][:1]
        gate.open()
        assert workers.answers.finished("r").tokens == expected[5]
        workers.check_at_rest()


def test_kv_is_there_before_prefill_has_run_the_rest(
    model: Path, expected: list[list[int]]
) -> None:
    gate = Gate()
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        workers.prefill.subscribe(lambda _: gate.hold())
        workers.submit("r", PROMPTS[5], GREEDY)
        gate.wait_reached()  # prefill's engine stands still behind its first step
        until(lambda: load_now(workers.decode).kv_bytes == 16 * 512, "holding the first chunk's KV")
        assert not workers.answers.seen("r")
        gate.open()
        assert workers.answers.finished("r").tokens == expected[5]
        assert load_now(workers.decode).kv_bytes == 40 * 512
        workers.check_at_rest()


def test_copies_beside_the_engine_change_nothing(model: Path, expected: list[list[int]]) -> None:
    """A thread waits for the copies, as on a device; items and the end keep their order."""
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        workers.prefill._engine._copies._thread = ThreadPoolExecutor(1)
        assert answer_all(workers, "beside") == expected
        assert load_now(workers.decode).prefill_fallbacks == 0
        workers.check_at_rest()


def test_a_store_that_holds_next_to_nothing_only_makes_pieces_smaller(
    model: Path, expected: list[list[int]]
) -> None:
    """The store holds 8 KiB, 16 tokens: two pulls at once, each with four pieces of two tokens."""
    store = FixedStore(8 * 1024)
    with Workers(model, prefill_config=CHUNKS_OF_16, store=store) as workers:
        assert answer_all(workers, "small") == expected
        workers.check_at_rest()
        load = load_now(workers.decode)
        assert (load.prefill_fallbacks, load.kv_rejected, load.prefill_tokens) == (0, 0, 0)
        assert (load.credit_bytes, load.credit_wanted_bytes) == (8 * 1024, 0)
        assert workers.source.credit.taken_bytes == 0


@pytest.mark.parametrize(
    ("prefill_size", "decode_size"),
    [
        (5, 16),
        (16, 3),
        pytest.param(16, 32, marks=pytest.mark.slow),
    ],  # compiles a kernel of its own
)
def test_the_two_sides_may_have_other_blocks_and_backends(
    model: Path, expected: list[list[int]], prefill_size: int, decode_size: int
) -> None:
    configs = [
        engine_config(
            num_blocks=400,
            block_size=size,
            backend="cpu" if size % 16 == 0 else "reference",
            fusion="auto" if size % 16 == 0 else "off",
        )
        for size in (prefill_size, decode_size)
    ]
    with Workers(model, prefill_config=configs[0], decode_config=configs[1]) as workers:
        assert answer_all(workers, "r") == expected
        workers.check_at_rest()
        assert load_now(workers.decode).prefill_fallbacks == 0
