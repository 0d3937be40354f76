"""Distance of quantized weights and KV from full ones: perplexity of a fixed text, and the likeliest tokens.

Usage: python -m benchmarks.quantized_quality [--threads N]

The text is our decision records (docs/adr), in windows of 256 tokens. Every engine reads the same tokens; the
likeliest next token at each position is compared with that of float32.
"""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from benchmarks.environment import write_result
from common.cache_dir import default_cache_dir
from common.config import EngineConfig
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine, build_engine
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from common.messages import SamplingParams, WorkRequest

_TEXT = Path(__file__).parents[1] / "docs" / "adr"
_WINDOW, _NUM_WINDOWS = 256, 6
_KINDS = {
    "float32": EngineConfig(dtype="float32", kv_cache_gib=0.1),
    "float32+kv-int8": EngineConfig(dtype="float32", kv_cache_dtype="int8", kv_cache_gib=0.1),
    "bfloat16": EngineConfig(dtype="bfloat16", kv_cache_gib=0.1),
    "bfloat16+kv-int8": EngineConfig(dtype="bfloat16", kv_cache_dtype="int8", kv_cache_gib=0.1),
    # without a GPU this backend alone reads it
    "bfloat16+kv-fp8": EngineConfig(
        dtype="bfloat16", kv_cache_dtype="fp8", attention_backend="reference", kv_cache_gib=0.1
    ),
    "bfloat16/int8": EngineConfig(dtype="bfloat16", quantization="int8", kv_cache_gib=0.1),
    "bfloat16/int4": EngineConfig(dtype="bfloat16", quantization="int4", kv_cache_gib=0.1),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """Results of one engine on the text."""

    perplexity: float
    likeliest: torch.Tensor  # token ids, one a position


def main(
    threads: Annotated[int | None, typer.Option(min=1, help="unset: one a core")] = None,
) -> None:
    """Measure and write benchmarks/results/quantized_quality.json."""
    folder = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    cores = threads or len(os.sched_getaffinity(0))
    windows = _windows(folder)
    figures: dict[str, dict[str, float]] = {}
    exact: Reading | None = None
    for kind, config in _KINDS.items():
        reading = _read(build_engine(folder, config, cores), windows)
        exact = exact or reading
        same = (reading.likeliest == exact.likeliest).float().mean()
        figures[kind] = {
            "perplexity": round(reading.perplexity, 3),
            "of float32": round(reading.perplexity / exact.perplexity, 4),
            "same likeliest token": round(float(same), 4),
        }
    path = write_result("quantized_quality", {"tokens": windows.numel()} | figures)
    console = Console()
    table = Table("weights and KV", *figures["float32"])
    for kind, values in figures.items():
        table.add_row(kind, *map(str, values.values()))
    console.print(table)
    console.print(f"written to {path.name}")


def _windows(folder: Path) -> torch.Tensor:
    """Return the text's first tokens [windows, tokens]."""
    text = "\n\n".join(path.read_text() for path in sorted(_TEXT.glob("0*.md")))
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    wanted = _WINDOW * _NUM_WINDOWS
    if len(ids) < wanted:
        raise ValueError(f"the text has {len(ids)} tokens, fewer than {wanted}")
    return torch.tensor(ids[:wanted]).view(_NUM_WINDOWS, _WINDOW)


def _read(engine: Engine, windows: torch.Tensor) -> Reading:
    losses, likeliest = [], []
    for ids in windows:
        logits = _logits(engine, ids)[:-1].log_softmax(-1)
        losses.append(-logits.gather(1, ids[1:, None]).mean().item())
        likeliest.append(logits.argmax(-1))
    return Reading(math.exp(sum(losses) / len(losses)), torch.cat(likeliest))


def _logits(engine: Engine, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits at each position of a prompt [T, vocab]."""
    sampling = SamplingParams(temperature=0.0, seed=0, max_tokens=1)
    seq = Sequence(WorkRequest("window", 0, tuple(ids.tolist()), sampling), Timeline(0.0))
    seq.block_table = engine.pool.allocate(engine.pool.num_blocks_for(len(ids)))
    inputs = RaggedInputs.from_batch(Batch((BatchEntry(seq, len(ids)),)), engine.pool.block_size)
    logits = engine.runner.logits(replace(inputs, sample_rows=np.arange(len(ids)))).clone()
    engine.pool.release(seq.block_table)
    return logits


if __name__ == "__main__":
    typer.run(main)
