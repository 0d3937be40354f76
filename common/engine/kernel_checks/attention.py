"""Check of the attention kernel, its stores and the copies of KV against the reference backend."""

from dataclasses import replace

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.cpu import CpuBackend
from common.engine.attention.form import AttentionForm
from common.engine.attention.reference import ReferenceBackend
from common.engine.batch import Batch, BatchEntry
from common.engine.cpu.attention_tiles import SEGMENT
from common.engine.cpu.emit import LANES
from common.engine.device_inputs import on_host
from common.engine.kernel_checks.close import normal, require_close
from common.engine.kernel_checks.verdicts import AttentionShape
from common.engine.memory.block_storage import payload_parts
from common.engine.memory.kv_cache import DTYPES, KVCache, kv_layout
from common.engine.memory.quantized_kv import LEVELS
from common.engine.model_spec import ModelSpec
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.kv_transfer.layout import KVShape, LatentShape
from common.messages import SamplingParams, WorkRequest

_KV_HEADS, _SCALE = 2, 0.2
_CHUNK, _PAST = 37, SEGMENT - 20
_CONTEXT = _PAST + _CHUNK + 2
_BLOCKS = -(-_CONTEXT // LANES)  # of the smallest size
# positions in memory and new ones, by sequence: chunks, one of which reaches a second segment; a decode step
# of which one thread would have nearly all; a decode step and a chunk in one
_STEPS = (
    ((0, _CHUNK), (_PAST, _CHUNK)),
    ((_CHUNK, 1), (_CONTEXT - 2, 1)),
    ((_CHUNK + 1, 2), (_CONTEXT - 1, 1)),
)
_TABLES = list(range(_BLOCKS, 2 * _BLOCKS)), list(range(_BLOCKS))[::-1]


def check(shape: AttentionShape) -> None:
    """Compile or load all kernels, and compare. Raises WrongNumbersError, KernelError."""
    spec, dtype = _spec(shape), DTYPES[shape.dtype]
    num_blocks = 2 * len(_TABLES[0])
    ours, plain = (
        KVCache(spec, num_blocks, shape.block_size, torch.device("cpu"), storage)
        for storage in ("packed", "pages")
    )
    past = _past(spec, _PAST)
    for cache in (ours, plain):
        cache.write(_TABLES[1], 0, past)
    backends = CpuBackend(ours, spec.num_heads), ReferenceBackend(plain)
    outputs = [_run(backend, shape, spec) for backend in backends]
    for attended, expected in zip(*outputs, strict=True):
        require_close("attention", attended, expected, dtype)
    for table, end in zip(_TABLES, (_CHUNK + 3, _CONTEXT), strict=True):
        for start in (0, 3):
            mine, theirs = (_read(cache, table, start, end) for cache in (ours, plain))
            require_close("KV stored or copied", mine, theirs, dtype)


def _past(spec: ModelSpec, num_tokens: int) -> torch.Tensor:
    """Return a payload of random keys and values."""
    plain = replace(spec, kv_quantization="none")
    numbers = normal(*kv_layout(plain).shape(num_tokens), dtype=DTYPES[spec.dtype], seed=3)
    if spec == plain:
        return numbers
    quantize = LEVELS[spec.kv_quantization].quantize
    parts = [quantize(part).flatten() for part in payload_parts(numbers, spec.kv_shapes)]
    return torch.cat(parts).view(kv_layout(spec).shape(num_tokens))


def _read(cache: KVCache, table: list[int], start: int, end: int) -> torch.Tensor:
    """Return the numbers of keys and values at positions [start, end), in a row."""
    (pair,) = cache.by_layer(cache.read(table, start, end))
    return torch.cat([kv.flatten() for kv in pair])


def _run(backend: AttentionBackend, shape: AttentionShape, spec: ModelSpec) -> list[torch.Tensor]:
    """Run _STEPS in each form of attention that the shape may ask for."""
    most, heads, kv_heads = 2 * _CHUNK, spec.num_heads, spec.num_kv_heads
    wide = normal(most, heads + 2 * kv_heads, shape.head_dim, dtype=DTYPES[shape.dtype])
    # views of one product, as the fused pass has them
    query, key, value = wide.split((heads, kv_heads, kv_heads), dim=1)
    if shape.is_latent:
        value = key[..., : shape.value_dim]
    elif shape.value_dim:
        value = normal(most, kv_heads, shape.value_dim, dtype=wide.dtype, seed=5)
    out = []
    for form in _forms(shape, heads):
        for step in _STEPS:
            inputs = _inputs(step, shape.block_size)
            backend.begin(on_host(inputs))
            rows = len(inputs.input_ids)
            attended = backend.attend(0, query[:rows], key[:rows], value[:rows], form)
            out.append(attended.clone())
    return out


def _forms(shape: AttentionShape, heads: int) -> list[AttentionForm]:
    forms = [AttentionForm(_SCALE), AttentionForm(_SCALE, window=9)]
    if shape.has_extras:
        sinks, slopes = normal(heads, seed=4), normal(heads, seed=5).abs()
        forms += [
            AttentionForm(_SCALE, softcap=0.5, sinks=sinks),
            AttentionForm(_SCALE, window=9, chunk=20, slopes=slopes),
        ]
    return forms


def _inputs(step: tuple[tuple[int, int], ...], block_size: int) -> RaggedInputs:
    entries = []
    for table, (computed, new) in zip(_TABLES, step, strict=True):
        request = WorkRequest("check", 0, (0,) * (computed + new), SamplingParams(0.0, 0, 1))
        seq = Sequence(request, Timeline(arrival_s=0.0))
        seq.num_computed_tokens = computed
        seq.block_table = table[: -(-(computed + new) // block_size)]
        entries.append(BatchEntry(seq, new))
    return RaggedInputs.from_batch(Batch(tuple(entries)), block_size)


def _spec(shape: AttentionShape) -> ModelSpec:
    kind = LatentShape if shape.is_latent else KVShape
    return ModelSpec(
        num_layers=1,
        num_heads=_KV_HEADS * shape.group,
        num_kv_heads=_KV_HEADS,
        head_dim=shape.head_dim,
        vocab_size=1,
        max_context_tokens=_CONTEXT,
        eos_token_ids=frozenset(),
        dtype=shape.dtype,
        fingerprint="",
        kv_quantization=shape.kv_quantization,
        own_kv_shapes=(kind(_KV_HEADS, shape.head_dim, shape.value_dim or shape.head_dim),),
    )
