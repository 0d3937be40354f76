"""Decode steps are split where one thread would have far more positions than others; bits stay the same."""

import numpy as np
import pytest
import torch

from common.engine.attention.cpu import CpuBackend
from common.engine.attention.form import AttentionForm
from common.engine.attention.split_steps import SplitSteps
from common.engine.batch import Batch, BatchEntry
from common.engine.cpu.attention_kernel import shape_of
from common.engine.cpu.attention_tiles import SEGMENT
from common.engine.cpu.emit import LANES
from common.engine.device_inputs import on_host
from common.engine.memory.kv_cache import DTYPES, KVCache
from common.engine.model_spec import ModelSpec
from common.engine.ragged import RaggedInputs
from common.kv_transfer.layout import KVShape, LatentShape
from tests.unit.common.engine.kernel_checks.test_verdicts import has_kernels
from tests.unit.common.engine.sequences import make_sequence

KV_HEADS, BLOCK, CPU = 2, 16, torch.device("cpu")
SLICES = 1, 2, 5
# one position, the edges of tiles and segments, several segments
CONTEXTS = [1, 63, 64, 65, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 17]
FORMS = {
    "plain": AttentionForm(0.2),
    "window": AttentionForm(0.2, window=150),
    "chunk": AttentionForm(0.2, window=200, chunk=100, softcap=1.5),
    "sinks": AttentionForm(0.2, sinks=torch.tensor([0.5, 3.0, -1.0, 2.0])),
    "slopes": AttentionForm(0.2, slopes=torch.tensor([0.5, 0.1, 0.02, 1.0])),
}


def spec_of(dtype: str, quantization: str, shape: KVShape) -> ModelSpec:
    return ModelSpec(
        num_layers=1,
        num_heads=4,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.key_dim,
        vocab_size=1,
        max_context_tokens=max(CONTEXTS),
        eos_token_ids=frozenset(),
        dtype=dtype,
        fingerprint="",
        kv_quantization=quantization,
        own_kv_shapes=(shape,),
    )


def filled(spec: ModelSpec, num_blocks: int) -> KVCache:
    """Return memory with random keys and values everywhere."""
    cache = KVCache(spec, num_blocks, BLOCK, CPU, "packed")
    generator = torch.Generator().manual_seed(1)
    for blocks in (cache.keys, cache.values):
        kind = torch.float32 if cache.is_quantized else blocks.dtype
        numbers = blocks.view(kind)
        numbers.copy_(torch.randn(numbers.shape, generator=generator))
    return cache


def decode_step(contexts: list[int]) -> RaggedInputs:
    blocks = iter(torch.randperm(sum(-(-n // BLOCK) for n in contexts)).tolist())
    entries = []
    for context in contexts:
        seq = make_sequence(context, computed=context - 1)
        seq.block_table = [next(blocks) for _ in range(-(-context // BLOCK))]
        entries.append(BatchEntry(seq, 1))
    return RaggedInputs.from_batch(Batch(tuple(entries)), BLOCK)


def attend_all(spec: ModelSpec, contexts: list[int], form: AttentionForm) -> list[torch.Tensor]:
    """Return what a step gives that is not split, and that is split into some numbers of slices."""
    (shape,) = spec.kv_shapes
    cache = filled(spec, sum(-(-n // BLOCK) for n in contexts))
    backend = CpuBackend(cache, spec.num_heads)
    backend.begin(on_host(decode_step(contexts)))
    generator = torch.Generator().manual_seed(2)
    query, key, value = (
        torch.randn(len(contexts), heads, dim, generator=generator).to(DTYPES[spec.dtype])
        for heads, dim in (
            (spec.num_heads, shape.key_dim),
            (shape.num_kv_heads, shape.key_dim),
            (shape.num_kv_heads, shape.value_dim),
        )
    )
    if isinstance(shape, LatentShape):
        value = key[..., : shape.value_dim]
    found = []
    for slices in (0, *SLICES):
        backend.is_split, backend._num_threads = slices > 0, slices
        found.append(backend.attend(0, query, key, value, form).clone())
    return found


@has_kernels
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [("float32", "none"), ("bfloat16", "none"), ("float16", "none"), ("float32", "int8")],
)
def test_a_split_step_has_the_same_bits(dtype: str, quantization: str, form: AttentionForm) -> None:
    spec = spec_of(dtype, quantization, KVShape(KV_HEADS, 32, 32))
    for context in CONTEXTS:
        whole, *split = attend_all(spec, [context], form)
        assert whole.isfinite().all()
        assert all(torch.equal(whole, found) for found in split), context


@has_kernels
def test_latents_of_several_sequences_are_split() -> None:
    spec = spec_of("bfloat16", "none", LatentShape(1, 48, 32))
    whole, *split = attend_all(spec, [300, 5, 529, max(CONTEXTS)], FORMS["plain"])
    assert whole.isfinite().all()
    assert all(torch.equal(whole, found) for found in split)


def steps(num_threads: int, kv_heads: int = 3, max_positions: int = 10_000) -> SplitSteps:
    shape = shape_of(BLOCK, (64, 64), 3, "float32")
    return SplitSteps([shape], 3 * kv_heads, max_positions, num_threads)


@pytest.mark.parametrize(
    ("num_threads", "contexts", "pays"),
    [
        (2, [600], True),  # two heads of three
        (2, [600, 600], False),  # three of six
        (2, [300, 1_000], True),  # three of 5 tiles, three of 16
        (2, [512], False),  # one segment
        (1, [9_000], False),
        (16, [9_000], True),
        (4, [600, 600, 600, 600], False),
        (2, [600] * 3, False),  # five of nine
        (2, [9_000, *[100] * 40], True),  # one of them has nearly all
    ],
)
def test_steps_are_split_where_a_thread_would_have_more_than_its_share(
    num_threads: int, contexts: list[int], pays: bool
) -> None:
    assert steps(num_threads).pays(np.array(contexts, np.int32)) is pays


def test_a_step_is_not_split_whose_sums_would_take_too_much_memory() -> None:
    found = steps(16, max_positions=1_000_000)
    sums = 3 * 3 * 4 * (64 + 1 + LANES)  # bytes of a segment of one sequence
    fit = (32 << 20) // sums * SEGMENT
    assert found.pays(np.array([fit], np.int32))
    assert not found.pays(np.array([fit + 1], np.int32))
    assert not found.pays(np.array([fit // 2 + SEGMENT, 1], np.int32))
    assert sum(memory.nbytes for memory in found.memory) <= 32 << 20
