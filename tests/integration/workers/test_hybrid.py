"""A model with state: the state follows its prompt, and is computed anew where it is lost."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.engine.memory.kv_cache import kv_layout
from common.kv_transfer.node_store import FixedStore
from common.messages import SamplingParams, WorkRequest
from tests.integration.support.in_process_workers import (
    PREFILL,
    Workers,
    in_engine,
    load_now,
)
from tests.integration.support.kv_faults import (
    Gate,
    Rewrite,
    change_at,
    die_at,
    end_at,
    flip_payload,
    hold_at,
    meddle,
)
from tests.unit.common.engine.state.hybrids import PROMPTS, save_hybrid
from tests.unit.common.engine.tiny_models import (
    continue_greedily,
    engine_config,
    load_reference,
)

NEW_TOKENS = 8
GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=NEW_TOKENS)
ROOMY = engine_config(num_blocks=100, max_batch_tokens=32, max_num_seqs=8)
SHORT = PROMPTS[0]  # 5 tokens: its items are token 1, a chunk and the state


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hybrid(tmp_path_factory.mktemp("qwen3_next"), "qwen3_next")


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    reference: Any = load_reference(model)
    return [continue_greedily(reference, prompt, NEW_TOKENS) for prompt in PROMPTS]


def answer_all(workers: Workers, tag: str) -> list[list[int]]:
    """Hand all prompts off at once."""
    for index, prompt in enumerate(PROMPTS):
        workers.submit(f"{tag}-{index}", prompt, GREEDY)
    return [workers.answers.finished(f"{tag}-{n}").tokens for n in range(len(PROMPTS))]


def check_slots(workers: Workers) -> None:
    """Check that nobody holds blocks or slots, and that there are slots."""
    workers.check_at_rest()
    for worker in (workers.prefill, workers.decode):
        slots = worker._engine._engine.prefix.slots
        assert slots is not None
        assert slots.num_free == slots.num_slots > 0


def test_the_state_is_handed_off_behind_the_kv(model: Path, expected: list[list[int]]) -> None:
    with (
        capture_logs() as logs,
        Workers(model, prefill_config=ROOMY, decode_config=ROOMY) as workers,
    ):
        for tag in ("first", "again"):
            assert answer_all(workers, tag) == expected
        check_slots(workers)
        load = load_now(workers.decode)
        assert (load.prefill_tokens, load.prefill_fallbacks, load.kv_rejected) == (0, 0, 0)
        layout = kv_layout(workers.decode._engine._engine.spec)
        whole = layout.num_bytes(sum(map(len, PROMPTS))) + len(PROMPTS) * layout.state_bytes
        assert layout.state_bytes > 0
        assert load.kv_bytes == load_now(workers.prefill).kv_bytes == 2 * whole
        assert load.prefix_hit_tokens == 0, "blocks alone make no prefix"
    said = [entry for entry in logs if entry["event"] == "prefix_sharing_off"]
    assert len(said) == 2, "once a worker"


def test_a_small_store_makes_many_pieces(model: Path, expected: list[list[int]]) -> None:
    store = FixedStore(8 * 1024)
    with Workers(model, prefill_config=ROOMY, decode_config=ROOMY, store=store) as workers:
        assert answer_all(workers, "r") == expected
        check_slots(workers)
        load = load_now(workers.decode)
        assert (load.prefill_tokens, load.prefill_fallbacks, load.kv_rejected) == (0, 0, 0)
        assert workers.source.credit.taken_bytes == 0


@pytest.mark.parametrize(
    ("fault", "rejected"),
    [
        (die_at(1), 0),
        (die_at(2), 0),
        (end_at(2), 0),
        (change_at(2, flip_payload), 1),
        (change_at(1, lambda item: []), 1),
    ],
    ids=["no KV", "no state", "an early end", "damage", "state before KV"],
)
def test_without_its_whole_state_a_prompt_is_computed_again(
    model: Path, expected: list[list[int]], fault: Rewrite, rejected: int
) -> None:
    with Workers(model, decode_config=ROOMY, wrap=meddle(fault)) as workers:
        workers.submit("r", SHORT, GREEDY)
        assert workers.answers.finished("r").tokens == expected[0]
        check_slots(workers)
        load = load_now(workers.decode)
        assert (load.prefill_fallbacks, load.kv_rejected) == (1, rejected)


def test_a_sequence_goes_on_behind_the_tokens_of_a_lost_worker(
    model: Path, expected: list[list[int]]
) -> None:
    tokens = expected[1]
    with Workers(model, prefill_config=ROOMY, decode_config=ROOMY) as workers:
        for name, prefill in (("pulled", PREFILL), ("local", None)):
            request = WorkRequest(
                name, 1, tuple(PROMPTS[1]), GREEDY, prefill, prior_token_ids=tuple(tokens[:3])
            )
            workers.answers.wait(name, lambda answer: True).tokens += tokens[:3]
            workers.decode.submit(request)
            assert workers.answers.finished(name).tokens == tokens
        check_slots(workers)


def test_a_cancel_frees_the_slot(model: Path) -> None:
    gate = Gate()
    with Workers(model, decode_config=ROOMY, wrap=meddle(hold_at(2, gate))) as workers:
        workers.submit("pulled", SHORT, GREEDY)
        gate.wait_reached()
        slots = workers.decode._engine._engine.prefix.slots
        assert slots is not None
        assert in_engine(workers.decode, lambda: slots.num_free) == slots.num_slots - 1
        workers.decode.cancel("pulled")
        gate.open()
        workers.submit("local", SHORT, SamplingParams(0.0, 0, max_tokens=400), prefill=None)
        workers.answers.wait("local", lambda answer: bool(answer.tokens))
        workers.decode.cancel("local")
        check_slots(workers)
