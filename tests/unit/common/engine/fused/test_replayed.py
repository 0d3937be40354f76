"""Steps that repeat the calls of an earlier one give the bits of steps that make their own."""

import random
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from common.config import Quantization
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine, build_engine
from common.engine.cpu.attention_tiles import SEGMENT
from common.engine.cpu.target import host_target
from common.engine.fused import replayed
from common.engine.fused.cpu_ops import CpuOps
from common.engine.fused.decoder import FusedDecoder
from common.engine.fused.replayed import ReplayedDecoder
from common.engine.model_runner import TokenModel
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.messages import SamplingParams, WorkRequest
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, poison, save_model

pytestmark = pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here")
ROUNDS = 3


def engine_of(
    folder: Path,
    family: str,
    form: Quantization,
    dtype: str,
    kv_dtype: str = "auto",
    num_blocks: int = 64,
) -> Engine:
    """Build an engine with two threads: tasks of several runs then wait for each other."""
    fields = {"quantization": form, "dtype": dtype, "kv_cache_dtype": kv_dtype}
    config = engine_config(num_blocks=num_blocks).model_copy(update=fields)
    return build_engine(save_model(folder, family), config, num_threads=2)


def replaying(engine: Engine) -> ReplayedDecoder:
    model = engine.runner._model
    assert isinstance(model, ReplayedDecoder)
    return model


def anew(engine: Engine) -> ReplayedDecoder:
    """Return a model that has no calls yet, with the weights and blocks of the engine's."""
    model = replaying(engine)
    ops = cast(CpuOps, model._decoder._ops)
    return ReplayedDecoder(model.weights, ops, model._backend)


def sequences(engine: Engine, lengths: list[int]) -> list[Sequence]:
    made = []
    for length in lengths:
        prompt = tuple(random.Random(length).choices(range(VOCAB), k=length))
        seq = Sequence(
            WorkRequest(str(length), 0, prompt, SamplingParams(0.0, 0, 1)), Timeline(0.0)
        )
        seq.block_table = engine.pool.allocate(engine.pool.num_blocks_for(length))
        made.append(seq)
    return made


def steps_of(held: list[Sequence], block_size: int) -> list[RaggedInputs]:
    """Return steps over whole prompts: one token of each that is left."""
    steps = []
    while any(seq.num_computed_tokens < len(seq.token_ids) for seq in held):
        waiting = [seq for seq in held if seq.num_computed_tokens < len(seq.token_ids)]
        entries = [BatchEntry(seq, 1) for seq in waiting]
        inputs = RaggedInputs.from_batch(Batch(tuple(entries)), block_size)
        steps.append(replace(inputs, sample_rows=np.arange(len(entries))))
        for entry in entries:
            entry.seq.num_computed_tokens += 1
    return steps


def run_all(model: TokenModel, steps: list[RaggedInputs]) -> list[torch.Tensor]:
    return [model.logits(step).clone() for step in steps]


@pytest.mark.parametrize(
    ("family", "form", "dtype", "kv_dtype"),
    [
        ("llama", "none", "bfloat16", "auto"),
        ("qwen2", "none", "float16", "auto"),
        ("qwen3", "none", "float32", "auto"),
        ("gemma3_text", "none", "float32", "auto"),
        ("llama", "int8", "bfloat16", "int8"),
        ("phi3", "int4", "float32", "auto"),
    ],
)
def test_repeated_steps_have_the_bits_of_steps_by_themselves(
    tmp_path: Path, family: str, form: Quantization, dtype: str, kv_dtype: str
) -> None:
    engine = engine_of(tmp_path, family, form, dtype, kv_dtype)
    model = replaying(engine)
    steps = steps_of(sequences(engine, [5, 9, 3, 20]), engine.pool.block_size)
    expected = run_all(model._decoder, steps)
    for _ in range(ROUNDS):
        poison(engine)
        found = run_all(model, steps)
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert {tokens for tokens, _ in model._by_kind} == {len(step.input_ids) for step in steps}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_of(tmp_path_factory.mktemp("llama"), "llama", "none", "float32")


def test_split_steps_are_repeated_apart_from_others(tmp_path: Path) -> None:
    """One of two sequences goes from one segment of positions to two."""
    folder = save_model(tmp_path, "llama", max_position_embeddings=2 * SEGMENT)
    engine = build_engine(folder, engine_config(num_blocks=80), num_threads=2)
    model = anew(engine)
    held = sequences(engine, [SEGMENT + 4, 9])
    entries = BatchEntry(held[0], SEGMENT - 4), BatchEntry(held[1], 1)
    prompts = RaggedInputs.from_batch(Batch(entries), engine.pool.block_size)
    held[0].num_computed_tokens, held[1].num_computed_tokens = SEGMENT - 4, 1
    steps = steps_of(held, engine.pool.block_size)
    model._decoder.logits(prompts)
    expected = run_all(model._decoder, steps)
    for _ in range(ROUNDS):
        poison(engine)
        model._decoder.logits(prompts)
        found = run_all(model, steps)
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert set(model._by_kind) == {(2, False), (2, True)}


def test_a_step_that_wants_some_rows_makes_its_own_calls(llama: Engine) -> None:
    model = replaying(llama)
    (step,) = steps_of(sequences(llama, [1, 1, 1]), llama.pool.block_size)[:1]
    known = set(model._by_kind)
    some = replace(step, sample_rows=np.array([2, 0]))
    expected = model._decoder.logits(step)[[2, 0]].clone()
    assert torch.equal(model.logits(some), expected)
    assert set(model._by_kind) == known


def test_the_size_used_longest_ago_is_forgotten(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replayed, "_KEPT", 2)
    model = anew(llama)
    for size in (1, 2, 1, 3):
        model.logits(steps_of(sequences(llama, [1] * size), llama.pool.block_size)[0])
    assert [tokens for tokens, _ in model._by_kind] == [1, 3]


def test_a_step_that_fails_leaves_nothing_recorded(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = anew(llama)
    step = steps_of(sequences(llama, [1, 1]), llama.pool.block_size)[0]
    expected = model._decoder.logits(step).clone()
    with monkeypatch.context() as broken:
        broken.setattr(FusedDecoder, "_finish_layer", _fail)
        with pytest.raises(ArithmeticError):
            model.logits(step)
    assert torch.equal(model.logits(step), expected)
    assert torch.equal(model.logits(step), expected)


def _fail(*_args: object) -> None:
    raise ArithmeticError


def test_a_step_of_more_tokens_than_are_kept_is_run_as_it_is(tmp_path: Path) -> None:
    """The rows that sample may be the first 64 of more: a chunk that samples nothing follows them."""
    engine = engine_of(tmp_path, "llama", "int8", "float32", num_blocks=80)
    model = replaying(engine)
    held = sequences(engine, [1] * 64 + [5])
    entries = (*(BatchEntry(seq, 1) for seq in held[:64]), BatchEntry(held[64], 5))
    inputs = RaggedInputs.from_batch(Batch(entries), engine.pool.block_size)
    inputs = replace(inputs, sample_rows=np.arange(64))
    expected = model._decoder.logits(inputs).clone()
    assert torch.equal(model.logits(inputs), expected)
    assert 69 not in {tokens for tokens, _ in model._by_kind}


def test_steps_that_are_no_decode_steps_make_their_own_calls(llama: Engine) -> None:
    """A chunk whose every token is scored has as many rows as tokens."""
    model = anew(llama)
    (seq,) = sequences(llama, [5])
    inputs = RaggedInputs.from_batch(Batch((BatchEntry(seq, 5),)), llama.pool.block_size)
    inputs = replace(inputs, sample_rows=np.arange(5))
    expected = model._decoder.logits(inputs).clone()
    assert torch.equal(model.logits(inputs), expected)
    assert not model._by_kind


def test_a_token_outside_the_vocabulary_is_refused_in_every_step(llama: Engine) -> None:
    model = anew(llama)
    step = steps_of(sequences(llama, [1, 1]), llama.pool.block_size)[0]
    expected = model.logits(step).clone()
    for outside in (-1, VOCAB):
        with pytest.raises(IndexError):
            model.logits(replace(step, input_ids=np.array([0, outside])))
    assert torch.equal(model.logits(step), expected)
