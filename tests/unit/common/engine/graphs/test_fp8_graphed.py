"""Captured decode steps over keys and values in fp8: they unpack whole tables, others what they use."""

import random
from pathlib import Path

import pytest

from common.engine.batch import Batch, BatchEntry
from common.engine.graphs.cuda_graphs import can_capture, graph_decode
from common.engine.graphs.graphed import GraphLimits
from common.engine.ragged import RaggedInputs
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.graphed import Flashed, build_flashed
from tests.unit.common.engine.plain_stage import plain_inputs
from tests.unit.common.engine.recording import RecordingCapture
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    make_engine,
    poison,
    save_model,
)

BLOCK = 16
# one token short of a block, a block and one over: each then decodes across the next border
PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (15, 16, 17, 31)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def flashed(folder: Path) -> Flashed:
    return build_flashed(folder, plain_inputs(), max_num_seqs=4, kv="fp8")


@pytest.mark.parametrize("num_seqs", [1, 3, 4])
def test_captured_and_uncaptured_steps_give_the_tokens_of_the_reference_backend(
    folder: Path, flashed: Flashed, num_seqs: int
) -> None:
    assert can_capture(flashed.decoder, flashed.backend)
    config = engine_config(num_blocks=96, backend="reference", kv_cache_dtype="fp8")
    prompts = PROMPTS[:num_seqs]
    expected = continuations(make_engine(folder, config), prompts, 8, budget=60)
    assert continuations(flashed.engine, prompts, 8, budget=60) == expected
    capture = RecordingCapture()
    engine = flashed.graphed(capture, plain_inputs())
    poison(engine)
    assert continuations(engine, prompts, 8, budget=60) == expected
    assert capture.replayed


def test_a_prompts_step_reads_no_value_of_the_device(flashed: Flashed) -> None:
    seq = hold(flashed.engine.pool, make_sequence(PROMPTS[3]))
    inputs = RaggedInputs.from_batch(Batch((BatchEntry(seq, len(PROMPTS[3])),)), BLOCK)

    def run() -> None:
        flashed.decoder.logits(inputs)

    RecordingCapture()(run)
    flashed.engine.pool.release(seq.block_table)


def test_only_batches_whose_tables_are_few_pages_are_captured(
    folder: Path, flashed: Flashed
) -> None:
    assert [flashed.backend.most_captured(n) for n in (1, 8, 64, 65)] == [64, 8, 1, 0]
    assert build_flashed(folder, plain_inputs()).backend.most_captured(1000) is None
    limits = GraphLimits(4, 65, BLOCK, 96)
    assert graph_decode(flashed.decoder, flashed.backend, limits) is flashed.decoder
