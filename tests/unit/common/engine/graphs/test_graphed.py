"""Captured decode steps give what uncaptured ones give; padding and scratch touch nobody."""

import random
from pathlib import Path

import pytest
import torch

from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.graphs.cuda_graphs import can_capture, capture_decode
from common.engine.graphs.graphed import GraphedDecoder, GraphLimits
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence
from common.messages import SamplingParams
from pdserve.errors import SetupError
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.graphed import Flashed, build_flashed
from tests.unit.common.engine.plain_stage import plain_inputs
from tests.unit.common.engine.recording import RecordingCapture
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import VOCAB, poison, save_model

BLOCK = 16
MOST = 20
# one token short of a block, a block, one over, and so on: each then decodes across the next border
LENGTHS = [15, 16, 17, 1, 31, 32, 33, 14, 30, 47, 2, 48, 16, 15, 3, 17, 32, 31, 8, 40, 33]
NEW_TOKENS = 4


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


PROMPTS = [prompt(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def flashed(tmp_path_factory: pytest.TempPathFactory) -> Flashed:
    return build_flashed(save_model(tmp_path_factory.mktemp("models"), "llama"), plain_inputs())


@pytest.fixture(scope="module")
def capture() -> RecordingCapture:
    return RecordingCapture()


@pytest.fixture
def graphed(recorded: Engine, capture: RecordingCapture) -> Engine:
    capture.replayed.clear()
    poison(recorded)
    return recorded


@pytest.fixture(scope="module")
def recorded(flashed: Flashed, capture: RecordingCapture) -> Engine:
    return flashed.graphed(capture, plain_inputs())


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (8, (1, 2, 4, 8)),
        (20, (1, 2, 4, 8, 16, 20)),
        (64, (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)),
    ],
)
def test_buckets_are_small_numbers_then_every_eighth_then_the_limit(
    most: int, sizes: tuple[int, ...]
) -> None:
    assert GraphLimits(most, 1, BLOCK, 1).buckets == sizes


def test_no_bucket_is_larger_than_256() -> None:
    buckets = GraphLimits(1000, 1, BLOCK, 1).buckets
    assert buckets[-1] == 256
    assert len(buckets) == 3 + 32


@pytest.mark.parametrize("num_seqs", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 19, 20, 21])
def test_every_batch_size_gives_the_tokens_of_uncaptured_steps(
    flashed: Flashed, graphed: Engine, capture: RecordingCapture, num_seqs: int
) -> None:
    prompts = PROMPTS[:num_seqs]
    expected = continuations(flashed.engine, prompts, NEW_TOKENS, budget=1000)
    poison(graphed)
    assert continuations(graphed, prompts, NEW_TOKENS, budget=1000) == expected
    sizes = flashed.limits.buckets[::-1]  # captured in this order
    padded = min((size for size in sizes if size >= num_seqs), default=None)
    decode_steps = [padded] * (NEW_TOKENS - 1) if padded else []
    assert [sizes[number] for number in capture.replayed] == decode_steps


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "phi3", "gemma3_text"])
def test_every_family_can_be_captured(tmp_path: Path, family: str) -> None:
    """No operation reads a value of the device, and windows are those of any context."""
    flashed = build_flashed(save_model(tmp_path, family), plain_inputs(), max_num_seqs=4)
    assert can_capture(flashed.decoder, flashed.backend)
    expected = continuations(flashed.engine, PROMPTS[:3], 8, budget=60)
    capture = RecordingCapture()
    engine = flashed.graphed(capture, plain_inputs())
    poison(engine)
    assert continuations(engine, PROMPTS[:3], 8, budget=60) == expected
    assert capture.replayed


def decoding(engine: Engine, num_seqs: int, seed: int = 0) -> list[Sequence]:
    """Make sequences that hold their blocks, prompts computed in a step of their own."""
    prompts = [prompt(length, seed + i) for i, length in enumerate(LENGTHS[:num_seqs])]
    sequences = [hold(engine.pool, make_sequence(tokens)) for tokens in prompts]
    for seq in sequences:
        if seq.num_prompt_tokens > 1:
            engine.runner.run(Batch((BatchEntry(seq, seq.num_prompt_tokens - 1),)))
            seq.num_computed_tokens = seq.num_prompt_tokens - 1
    return sequences


def decode(engine: Engine, sequences: list[Sequence]) -> torch.Tensor:
    batch = Batch(tuple(BatchEntry(seq, 1) for seq in sequences))
    return engine.runner.logits(RaggedInputs.from_batch(batch, BLOCK)).clone()


def release(engine: Engine, sequences: list[Sequence]) -> None:
    for seq in sequences:
        engine.pool.release(seq.block_table)
    engine.pool.check_integrity([])


@pytest.mark.parametrize("num_seqs", [9, 12, 15])
def test_padding_rows_change_no_real_row_by_a_bit(graphed: Engine, num_seqs: int) -> None:
    """The bucket of 16, full and not; before that, scratch holds NaN."""
    sequences = decoding(graphed, 16)
    full = decode(graphed, sequences)
    poison_scratch(graphed)
    padded = decode(graphed, sequences[:num_seqs])
    assert len(padded) == num_seqs
    assert torch.isfinite(padded).all()
    assert torch.equal(padded, full[:num_seqs])
    release(graphed, sequences)


def poison_scratch(engine: Engine) -> None:
    engine.cache.keys[:, engine.pool.num_blocks] = float("nan")
    engine.cache.values[:, engine.pool.num_blocks] = float("nan")


def test_changing_one_sequence_changes_no_others_logits_by_a_bit(graphed: Engine) -> None:
    sequences = decoding(graphed, 5)
    expected = decode(graphed, sequences)
    for index, other in enumerate(decoding(graphed, 5, seed=100)):
        changed = decode(graphed, [*sequences[:index], other, *sequences[index + 1 :]])
        differs = [not torch.equal(a, b) for a, b in zip(changed, expected, strict=True)]
        assert differs == [row == index for row in range(5)]
        graphed.pool.release(other.block_table)
    release(graphed, sequences)


def test_scratch_is_no_sequences_and_padding_writes_nowhere_else(
    flashed: Flashed, graphed: Engine
) -> None:
    pool, cache, scratch = graphed.pool, graphed.cache, flashed.limits.scratch_block
    everything = pool.allocate(pool.num_free)
    assert scratch not in everything
    assert cache.keys.shape[1] == pool.num_blocks + 1
    pool.release(everything)

    sequences = decoding(graphed, 5)
    before = cache.keys.clone()
    decode(graphed, sequences)
    differs = (cache.keys != before) & ~(cache.keys.isnan() & before.isnan())
    # [layers, blocks, block_size, kv_heads, head_dim]
    slots = differs.flatten(3).any(dim=3).any(dim=0).nonzero().tolist()
    last = [seq.num_computed_tokens for seq in sequences]
    own = {
        (seq.block_table[at // BLOCK], at % BLOCK) for seq, at in zip(sequences, last, strict=True)
    }
    assert {tuple(slot) for slot in slots} == own | {(scratch, 0)}
    release(graphed, sequences)


def replays_of(capture: RecordingCapture, engine: Engine, *entries: BatchEntry) -> int:
    engine.runner.run(Batch(entries))
    return len(capture.replayed)


def test_a_step_with_prompts_is_not_replayed(graphed: Engine, capture: RecordingCapture) -> None:
    short, chunk, scored = (
        hold(graphed.pool, make_sequence(5, sampling))
        for sampling in (None, None, SamplingParams(0.0, seed=0, max_tokens=1, prompt_logprobs=1))
    )
    lone = hold(graphed.pool, make_sequence(1))
    graphed.runner.run(Batch((BatchEntry(scored, 1),)))
    scored.num_computed_tokens = 1
    capture.replayed.clear()
    assert replays_of(capture, graphed, BatchEntry(short, 5)) == 0, "a whole prompt"
    assert replays_of(capture, graphed, BatchEntry(lone, 1), BatchEntry(chunk, 4)) == 0, "mixed"
    assert replays_of(capture, graphed, BatchEntry(lone, 1), BatchEntry(chunk, 1)) == 0, "no sample"
    assert replays_of(capture, graphed, BatchEntry(scored, 1), BatchEntry(lone, 1)) == 0, "scored"
    assert replays_of(capture, graphed, BatchEntry(lone, 1)) == 1
    release(graphed, [short, chunk, scored, lone])


def test_a_context_longer_than_a_graph_holds_is_not_replayed(flashed: Flashed) -> None:
    """A sequence is never that long; if one were, its result would still be right."""
    capture = RecordingCapture()
    limits = GraphLimits(2, 1, BLOCK, flashed.limits.scratch_block)
    engine = flashed.running(GraphedDecoder(flashed.decoder, limits, plain_inputs(), capture))
    (fits, longer) = decoding(flashed.engine, 3)[1:]
    assert (fits.num_prompt_tokens, longer.num_prompt_tokens) == (16, 17)
    decode(engine, [longer])
    assert not capture.replayed
    decode(engine, [fits])
    assert capture.replayed
    flashed.engine.pool.release(fits.block_table)
    flashed.engine.pool.release(longer.block_table)


def test_what_cannot_be_captured_is_refused_with_the_setting_that_turns_it_off(
    flashed: Flashed,
) -> None:
    def refuse(run: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    with pytest.raises(SetupError, match=r"capturing\. set engine\.cuda_graphs to 'off'") as caught:
        capture_decode(flashed.decoder, flashed.limits, plain_inputs(), refuse)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_rotary_scaling_that_looks_at_positions_is_left_out(
    flashed: Flashed, tmp_path: Path
) -> None:
    rope: dict[str, object] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0}
    dynamic = build_flashed(save_model(tmp_path, "llama", rope_parameters=rope), plain_inputs())
    assert can_capture(flashed.decoder, flashed.backend)
    assert not can_capture(dynamic.decoder, dynamic.backend)
    with pytest.raises(SetupError, match="waits for the device"):
        capture_decode(dynamic.decoder, dynamic.limits, plain_inputs(), RecordingCapture())
