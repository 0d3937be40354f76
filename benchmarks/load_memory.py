"""Host memory at the worst moment of a worker's build on a CPU, against the size of the weights.

Usage: python -m benchmarks.load_memory [MODEL] [--dtype DTYPE]

Each build runs in a process of its own, behind the build of a tiny model: what is imported and compiled does
not count.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from transformers import AutoConfig, AutoModelForCausalLM

from common.cache_dir import default_cache_dir
from common.config import EngineConfig
from common.engine.build import build_engine
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from common.engine.weights.size import weights_bytes

_TIMEOUT_S = 900.0
_KV_GIB = 0.01  # hardly any: the weights are measured
_SHAPE: dict[str, object] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,  # the default model's, so that its kernels are there
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}


def main(
    model: Annotated[str, typer.Argument(help="As of `pdserve serve`")] = DEFAULT_ALIAS,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16; empty: all")] = "",
) -> None:
    """Measure, and print a line for each dtype."""
    folder = resolve_model(model, default_cache_dir(), NoProgress()).path
    for each in [dtype] if dtype else ["float32", "bfloat16"]:
        size, peak = weights_bytes(folder, each), measure(folder, each).peak_bytes
        print(
            f"{each}: weights {size / 2**20:.0f} MiB, peak {peak / 2**20:.0f}, {peak / size:.2f} x"
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes of a process that a build added: at the worst moment, and at its end."""

    peak_bytes: int
    held_bytes: int


def measure(folder: Path, dtype: str) -> Taken:
    """Measure a build in a process of its own."""
    command = [sys.executable, "-m", f"{__package__}.load_memory_child", str(folder), dtype]
    ended = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S, env=os.environ
    )
    return Taken(**json.loads(ended.stdout.splitlines()[-1]))


def build_measured(folder: Path, dtype: str) -> Taken:
    """Build a tiny engine, then one of `folder`; return what the second one took."""
    config = EngineConfig.model_validate({"dtype": dtype, "device": "cpu", "kv_cache_gib": _KV_GIB})
    with tempfile.TemporaryDirectory() as tiny:
        save_llama(Path(tiny), {})
        build_engine(Path(tiny), config, num_threads=1)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    engine = build_engine(folder, config, num_threads=1)
    held = psutil.Process().memory_info().rss - before - engine.cache.num_bytes
    lines = Path("/proc/self/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return Taken(1024 * peak_kib - before, held)


def save_llama(
    folder: Path, changes: dict[str, object], dtype: torch.dtype = torch.float32
) -> None:
    """Write a Llama with random weights, tiny but for the changes of its shape."""
    config = AutoConfig.for_model("llama", **(_SHAPE | changes))
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)


if __name__ == "__main__":
    typer.run(main)
