"""A token's logits have the same bits in every step that may compute them, on every kind of CPU.

Sampled tokens then survive what moves a request: a preemption, a lost prefill, another worker.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cache_dir import default_cache_dir
from common.config import EngineConfig
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine, build_engine
from common.engine.cpu.target import host_target
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, make_engine, save_model

# an attention tile is 16 queries, a block 16 positions, a tile of keys 64 positions
NUM_TOKENS = 150
CHUNKS: dict[str, list[int]] = {
    "in odd chunks": [1, 17, 33, 2, 47, 5, 3, 16, 26],
    "in chunks of 33, whose last query is alone in its tile": [33, 33, 33, 33, 18],
    "behind a prefix of three blocks": [48, 102],
    "behind a prefix of nine blocks": [144, 6],
    "token by token": [1] * NUM_TOKENS,
}
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "MHA": ("llama", {"num_key_value_heads": 4}),
    "GQA": ("llama", {"num_key_value_heads": 2}),
    "MQA": ("llama", {"num_key_value_heads": 1}),
    "windows": ("mistral", {}),
    "norms of heads, gelu, soft cap": ("gemma3_text", {"final_logit_softcapping": 20.0}),
}
pytestmark = pytest.mark.skipif(
    not host_target().has_kernels, reason="torch's operations promise no such thing"
)


def draw_tokens(count: int, vocab_size: int = VOCAB) -> list[int]:
    return random.Random(count).choices(range(vocab_size), k=count)


class Neighbours:
    """Sequences that decode, or run a chunk of another size in each step; the first of each batch."""

    def __init__(self, engine: Engine) -> None:
        self._sequences = [make_sequence(draw_tokens(count)) for count in (5, 40, 70)]
        self._counts = cycle((1, 7, 1, 30, 13))
        for seq in self._sequences:
            hold(engine.pool, seq)

    def entries(self) -> Iterator[BatchEntry]:
        """Yield the next step's entries; who is at the end starts again."""
        for seq in self._sequences:
            seq.num_computed_tokens %= len(seq.token_ids)
            yield BatchEntry(seq, min(next(self._counts), seq.num_uncomputed_tokens))

    def release(self, engine: Engine) -> None:
        """Give the blocks back."""
        for seq in self._sequences:
            engine.pool.release(seq.block_table)


def every_logits(engine: Engine, chunks: list[int], neighbours: Neighbours | None) -> torch.Tensor:
    """Return the logits at each position of one prompt [T, vocab], which runs in these chunks."""
    seq = hold(engine.pool, make_sequence(draw_tokens(sum(chunks), engine.spec.vocab_size)))
    found = [_run(engine, seq, count, neighbours) for count in chunks]
    engine.pool.release(seq.block_table)
    return torch.cat(found)


def _run(engine: Engine, seq: Sequence, count: int, neighbours: Neighbours | None) -> torch.Tensor:
    beside = list(neighbours.entries()) if neighbours else []
    entries = (*beside, BatchEntry(seq, count))
    inputs = RaggedInputs.from_batch(Batch(entries), engine.pool.block_size)
    num_tokens = len(inputs.input_ids)
    inputs = replace(inputs, sample_rows=np.arange(num_tokens - count, num_tokens))
    logits = engine.runner.logits(inputs).clone()
    for entry in entries:
        entry.seq.num_computed_tokens += entry.num_tokens
    return logits


def assert_same_bits(engine: Engine) -> None:
    whole = every_logits(engine, [NUM_TOKENS], None)
    assert whole.isfinite().all()
    assert whole.std(dim=0).min() > 0, "not lively"
    for name, chunks in CHUNKS.items():
        assert torch.equal(every_logits(engine, chunks, None), whole), name
        neighbours = Neighbours(engine)
        assert torch.equal(every_logits(engine, chunks, neighbours), whole), f"{name}, with others"
        neighbours.release(engine)


# one kind shows what a dtype of two bytes changes; MHA in those dtypes has kernels of its own
CASES = [
    *((kind, "float32") for kind in KINDS),
    ("GQA", "bfloat16"),
    ("GQA", "float16"),
    *(pytest.param("MHA", dtype, marks=pytest.mark.slow) for dtype in ("bfloat16", "float16")),
]


@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_logits_do_not_depend_on_the_step_that_computes_them(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    family, changes = KINDS[kind]
    folder = save_model(tmp_path, family, **changes)
    assert_same_bits(make_engine(folder, engine_config(dtype=dtype)))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_default_model_gives_the_same_bits_too(dtype: str, num_threads: int) -> None:
    model = resolve_model("smollm2-135m", default_cache_dir(), NoProgress())
    config = EngineConfig.model_validate({"dtype": dtype, "device": "cpu", "kv_cache_gib": 0.25})
    assert_same_bits(build_engine(model.path, config, num_threads))
