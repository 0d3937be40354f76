"""Ragged batches over paged memory for tests of attention, and dense attention to compare with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from common.config import Backend
from common.engine.attention.backend import AttentionBackend
from common.engine.attention.form import AttentionForm
from common.engine.attention.select import select_backend
from common.engine.batch import Batch, BatchEntry
from common.engine.device_inputs import on_host
from common.engine.memory.kv_cache import DTYPES, KVCache, Storage
from common.engine.memory.quantized_kv import LEVELS
from common.engine.model_spec import ModelSpec
from common.engine.ragged import RaggedInputs
from tests.unit.common.engine.sequences import make_sequence

LAYERS, LAYER = 2, 1  # the layer that is tested is not the first


@dataclass(frozen=True)
class Shape:
    """Sizes that a backend is built for."""

    block_size: int
    head_dim: int
    num_heads: int
    num_kv_heads: int
    dtype: str = "float32"
    kv_quantization: str = "none"

    def random(self, tokens: int, heads: int, seed: int) -> torch.Tensor:
        """[tokens, heads, head_dim], normal, rounded to the shape's dtype."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(tokens, heads, self.head_dim, generator=generator).to(DTYPES[self.dtype])


@dataclass(frozen=True)
class Turn:
    """Part of one sequence in a step: `computed` positions in memory, `new` ones run."""

    computed: int
    new: int
    seed: int
    factor: float = 1.0

    def query(self, shape: Shape) -> torch.Tensor:
        """Queries of the new positions."""
        return shape.random(self.new, shape.num_heads, self.seed)

    def keys_values(self, shape: Shape) -> torch.Tensor:
        """[2, positions, kv_heads, head_dim] of every position, old and new."""
        total = self.computed + self.new
        pair = [shape.random(total, shape.num_kv_heads, self.seed + k) for k in (10_000, 20_000)]
        return torch.stack(pair) * self.factor

    def changed(self) -> "Turn":
        """Another sequence of the same length."""
        return replace(self, seed=self.seed + 1)


@dataclass(frozen=True)
class Step:
    """Options of attention: the form's numbers, and if only rows that sample matter."""

    scale: float = 0.3
    window: int | None = None
    sampled_only: bool = False
    chunk: int | None = None
    softcap: float | None = None
    sinks: tuple[float, ...] | None = None  # a number a head, as many as the shape has
    slopes: tuple[float, ...] | None = None

    @property
    def form(self) -> AttentionForm:
        """The form that these options make."""
        sinks, slopes = (None if x is None else torch.tensor(x) for x in (self.sinks, self.slopes))
        return AttentionForm(self.scale, self.window, self.chunk, self.softcap, sinks, slopes)


Build = Callable[[KVCache], AttentionBackend]


def attend_paged(
    backend: Backend,
    shape: Shape,
    turns: list[Turn],
    step: Step = Step(),
    stale: float = float("nan"),
) -> list[torch.Tensor]:
    """Return each sequence's output, run as one ragged batch in memory that held `stale` everywhere."""
    build = partial(select_backend, backend, num_heads=shape.num_heads)
    return attend_with(build, "packed", shape, turns, step, stale)


def attend_with(
    build: Build,
    storage: Storage,
    shape: Shape,
    turns: list[Turn],
    step: Step,
    stale: float = float("nan"),
) -> list[torch.Tensor]:
    """Attend with a backend that `build` makes, and its kind of memory."""
    # two blocks to spare; the tables interleave, since they are dealt from a shuffled deck
    needed = [-(-(turn.computed + turn.new) // shape.block_size) for turn in turns]
    cache = make_cache(shape, sum(needed) + 2, stale, storage)
    deck = torch.randperm(sum(needed) + 2, generator=torch.Generator().manual_seed(3)).tolist()
    inputs = place(cache, shape, turns, [[deck.pop() for _ in range(n)] for n in needed])
    runner = build(cache)
    runner.begin(on_host(inputs))
    new = torch.cat([turn.keys_values(shape)[:, turn.computed :] for turn in turns], dim=1)
    query = torch.cat([turn.query(shape) for turn in turns])
    out = runner.attend(LAYER, query, new[0], new[1], step.form, step.sampled_only)
    return [part.clone() for part in out.split([turn.new for turn in turns])]


def attend_dense(shape: Shape, turn: Turn, step: Step = Step()) -> torch.Tensor:
    """Attend by the formula, in float64, with no blocks."""
    group = shape.num_heads // shape.num_kv_heads
    pair = turn.keys_values(shape)
    if levels := LEVELS.get(shape.kv_quantization):
        pair = levels.dequantize(levels.quantize(pair), shape.head_dim)
    keys, values = pair.double().repeat_interleave(group, dim=2)
    scores = torch.einsum("qhd,khd->hqk", turn.query(shape).double(), keys) * step.scale
    seen_by = torch.arange(turn.computed, turn.computed + turn.new)[:, None]
    positions = torch.arange(turn.computed + turn.new)[None, :]
    distance = seen_by - positions
    visible = (distance >= 0) & (distance < (step.window or 1 << 30))
    if step.chunk is not None:
        visible &= positions >= seen_by - seen_by % step.chunk
    if step.softcap is not None:
        scores = torch.tanh(scores / step.softcap) * step.softcap
    if step.slopes is not None:
        scores -= torch.tensor(step.slopes).double()[:, None, None] * distance
    scores = scores.masked_fill(~visible, float("-inf"))
    if step.sinks is not None:
        sinks = torch.tensor(step.sinks).double()[:, None, None].expand(-1, turn.new, 1)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(dim=-1)[..., : turn.computed + turn.new]
    return torch.einsum("hqk,khd->qhd", weights, values)


def make_cache(
    shape: Shape,
    num_blocks: int,
    stale: float,
    storage: Storage = "packed",
    device: str = "cpu",
) -> KVCache:
    """Memory for LAYERS layers that holds `stale` everywhere."""
    spec = ModelSpec(
        num_layers=LAYERS,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        vocab_size=1,
        max_context_tokens=1,
        eos_token_ids=frozenset(),
        dtype=shape.dtype,
        fingerprint="",
        kv_quantization=shape.kv_quantization,
    )
    cache = KVCache(spec, num_blocks, shape.block_size, torch.device(device), storage)
    for blocks in (cache.keys, cache.values):
        # of words every one: also those that are scales
        (blocks.view(torch.float32) if cache.is_quantized else blocks).fill_(stale)
    return cache


def place(cache: KVCache, shape: Shape, turns: list[Turn], tables: list[list[int]]) -> RaggedInputs:
    """Write what each sequence has computed already, and describe the step."""
    entries = []
    for turn, table in zip(turns, tables, strict=True):
        seq = make_sequence(turn.computed + turn.new, computed=turn.computed)
        seq.block_table = table
        entries.append(BatchEntry(seq, turn.new))
        if turn.computed:
            past = turn.keys_values(shape)[:, : turn.computed]
            past = past if cache.levels is None else cache.levels.quantize(past)
            cache.write(table, 0, past[None].repeat(LAYERS, 1, 1, 1, 1))
    return RaggedInputs.from_batch(Batch(tuple(entries)), shape.block_size)
