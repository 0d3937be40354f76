"""Captured decode steps on the device, against the same steps uncaptured."""

import random
from pathlib import Path

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn

from common.engine.attention.flash import PAGE
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine, build_engine
from common.engine.device_inputs import DeviceInputs
from common.engine.graphs.cuda_graphs import CudaCapture, capture_decode
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.graphed import Flashed, build_flashed
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    kv_bytes,
    poison,
    save_model,
)

pytestmark = pytest.mark.gpu

MOST = 24
LENGTHS = [255, 256, 257, 1, 100, 511, 512, 300]


def prompt(number: int) -> list[int]:
    return random.Random(number).choices(range(VOCAB), k=LENGTHS[number % len(LENGTHS)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama", max_position_embeddings=1024)


@pytest.fixture(scope="module")
def flashed(folder: Path) -> Flashed:
    device = torch.device("cuda")
    return build_flashed(
        folder,
        DeviceInputs(device),
        max_num_seqs=MOST,
        block_size=PAGE,
        dtype="bfloat16",
        device=device,
        attend=varlen_attn,
    )


@pytest.fixture(scope="module")
def graphed(flashed: Flashed) -> Engine:
    inputs = DeviceInputs(torch.device("cuda"))
    return flashed.running(capture_decode(flashed.decoder, flashed.limits, inputs, CudaCapture()))


def decoding(engine: Engine, num_seqs: int) -> list[Sequence]:
    """Return sequences whose prompts are computed except for the last token."""
    poison(engine)
    sequences = [hold(engine.pool, make_sequence(prompt(number))) for number in range(num_seqs)]
    for seq in sequences:
        if seq.num_prompt_tokens > 1:
            engine.runner.run(Batch((BatchEntry(seq, seq.num_prompt_tokens - 1),)))
            seq.num_computed_tokens = seq.num_prompt_tokens - 1
    return sequences


def decode(engine: Engine, sequences: list[Sequence]) -> torch.Tensor:
    batch = Batch(tuple(BatchEntry(seq, 1) for seq in sequences))
    return engine.runner.logits(RaggedInputs.from_batch(batch, PAGE)).clone()


def release(engine: Engine, sequences: list[Sequence]) -> None:
    for seq in sequences:
        engine.pool.release(seq.block_table)
    engine.pool.check_integrity([])


@pytest.mark.parametrize("num_seqs", [1, 2, 3, 4, 7, 8, 9, 16, 17, MOST])
def test_a_replay_gives_the_logits_of_the_step_itself(
    flashed: Flashed, graphed: Engine, num_seqs: int
) -> None:
    """Equal up to rounding: with padding rows the library may choose another product."""
    sequences = decoding(flashed.engine, num_seqs)
    expected = decode(flashed.engine, sequences)
    found = decode(graphed, sequences)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)
    assert torch.equal(decode(graphed, sequences), found), "a replay is repeatable"
    release(flashed.engine, sequences)


@pytest.mark.parametrize("num_seqs", [9, 12, 15])
def test_padding_rows_change_no_real_row_by_a_bit(graphed: Engine, num_seqs: int) -> None:
    sequences = decoding(graphed, 16)
    full = decode(graphed, sequences)
    for blocks in (graphed.cache.keys, graphed.cache.values):
        blocks[:, graphed.pool.num_blocks] = float("nan")
    assert torch.equal(decode(graphed, sequences[:num_seqs]), full[:num_seqs])
    release(graphed, sequences)


def test_graphs_keep_their_memory_whatever_runs_between(flashed: Flashed, graphed: Engine) -> None:
    """The longest prompt grows the workspace of uncaptured steps; freed memory is overwritten."""
    sequences = decoding(graphed, 8)
    expected = decode(graphed, sequences)
    longest = hold(flashed.engine.pool, make_sequence(900))
    flashed.engine.runner.run(Batch((BatchEntry(longest, 900),)))
    torch.cuda.empty_cache()
    rubbish = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(32)]
    assert torch.equal(decode(graphed, sequences), expected)
    del rubbish
    release(graphed, [*sequences, longest])


def test_text_is_the_same_with_prompts_and_replays_in_turns(
    flashed: Flashed, graphed: Engine
) -> None:
    """Eight sequences fill their bucket, so that both engines run the same products."""
    prompts = [prompt(number) for number in range(8)]
    expected = continuations(flashed.engine, prompts, 12, budget=1 << 12)
    poison(graphed)
    assert continuations(graphed, prompts, 12, budget=1 << 12) == expected


@pytest.mark.parametrize("kv", ["auto", "fp8"])
def test_an_engine_is_built_with_graphs_and_a_block_of_scratch(folder: Path, kv: str) -> None:
    """A context is four pages; over fp8 as many sequences as have 64 are captured."""
    texts = []
    for setting in ("auto", "off"):
        config = engine_config(
            num_blocks=40,
            block_size=PAGE,
            backend="flash",
            device="cuda",
            dtype="bfloat16",
            cuda_graphs=setting,
            kv_cache_dtype=kv,
        )
        engine = build_engine(folder, config, num_threads=1)
        num_scratch = engine.cache.keys.shape[1] - engine.pool.num_blocks
        assert num_scratch == (setting == "auto")
        assert engine.cache.num_bytes <= kv_bytes(config)
        texts.append(continuations(engine, [prompt(n) for n in range(8)], 12, budget=1 << 12))
        engine.pool.check_integrity([])
    assert texts[0] == texts[1]
