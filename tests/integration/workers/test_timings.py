"""Timings of a hand-off, chunk by chunk, on one time line."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from common.engine.memory.kv_cache import kv_layout
from common.messages import SamplingParams
from common.timings import WorkTimings
from tests.integration.support.in_process_workers import CHUNKS_OF_16, Workers
from tests.unit.common.engine.tiny_models import save_model

PROMPT = [3 + i % 50 for i in range(40)]
EIGHT = SamplingParams(temperature=0.0, seed=0, max_tokens=8)
ROUNDING_S = 1e-6


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    model = save_model(tmp_path_factory.mktemp("llama"), "llama")
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        yield workers


def answer(workers: Workers, name: str, prefill: str | None = "prefill-0") -> WorkTimings:
    workers.submit(name, PROMPT, EIGHT, prefill=prefill, salt=name.partition("-")[0])
    timings = workers.answers.finished(name).timings
    assert timings is not None
    workers.check_at_rest()
    return timings


def test_every_chunk_of_kv_has_its_way_and_it_begins_before_prefill_ends(workers: Workers) -> None:
    timings = answer(workers, "whole")
    chunks, transfers = timings.prefill_chunks, timings.transfers
    layout = kv_layout(workers.decode._engine._engine.spec)
    assert [t.num_tokens for t in transfers] == [c.num_tokens for c in chunks] == [16, 16, 8]
    assert [t.num_bytes for t in transfers] == [layout.num_bytes(n) for n in (16, 16, 8)]
    assert sum(t.num_bytes for t in transfers) == timings.kv_bytes
    for chunk, transfer in zip(chunks, transfers, strict=True):
        assert chunk.start_s + chunk.duration_s <= transfer.copy_out_start_s + ROUNDING_S
    prefill_end_s = chunks[-1].start_s + chunks[-1].duration_s
    for earlier in transfers[:-1]:
        assert earlier.copy_out_start_s + earlier.copy_out_s < prefill_end_s, "streaming"


def test_phases_follow_each_other_on_one_time_line(workers: Workers) -> None:
    timings = answer(workers, "order")
    assert timings.pull_s is not None
    assert 0 <= timings.pull_s <= timings.queue_s
    assert 0 <= timings.clock_error_s <= timings.queue_s
    joined_s = timings.decode_steps[0].start_s
    for transfer in timings.transfers:
        assert min(transfer.copy_out_s, transfer.wire_s, transfer.insert_s) >= 0
        arrived_s = transfer.copy_out_start_s + transfer.copy_out_s + transfer.wire_s
        assert arrived_s <= transfer.insert_start_s + ROUNDING_S
        assert transfer.insert_start_s + transfer.insert_s <= joined_s
    last = timings.prefill_chunks[-1]
    assert last.start_s + last.duration_s + timings.handoff_s == pytest.approx(joined_s)


def test_each_decode_step_is_there(workers: Workers) -> None:
    timings = answer(workers, "steps")
    assert len(timings.decode_steps) == timings.num_decode_steps == 7  # token 1 is prefill's
    assert {(s.num_sequences, s.num_tokens) for s in timings.decode_steps} == {(1, 1)}
    for before, after in pairwise(timings.decode_steps):
        assert before.duration_s > 0
        assert before.start_s + before.duration_s <= after.start_s


def test_what_decode_holds_already_has_no_way(workers: Workers) -> None:
    answer(workers, "again-1")
    timings = answer(workers, "again-2")
    held = len(PROMPT) // 16 * 16  # whole blocks
    assert sum(t.num_tokens for t in timings.transfers) == len(PROMPT) - held


def test_a_prompt_that_runs_where_it_decodes_has_no_transfers(workers: Workers) -> None:
    timings = answer(workers, "local", prefill=None)
    assert (timings.pull_s, timings.transfers, timings.handoff_s) == (None, (), 0.0)
    assert sum(c.num_tokens for c in timings.prefill_chunks) == len(PROMPT)
    assert timings.num_decode_steps == 7
