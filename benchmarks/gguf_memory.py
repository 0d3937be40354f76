"""Host memory of a worker on a CPU that keeps a quantized GGUF file, against the file's size.

Usage: python -m benchmarks.gguf_memory

The files are the default model's, made by benchmarks.gguf_file. Each build runs in a process of its own, as
in benchmarks.load_memory; the same file dequantized stands beside it. Kernels are compiled before.
"""

import tempfile
from pathlib import Path

import gguf
import typer

from benchmarks.environment import write_result
from benchmarks.gguf_file import write_llama
from benchmarks.load_memory import measure
from common.cache_dir import default_cache_dir
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from common.engine.weights.size import weights_bytes

_KINDS = ("Q4_0", "Q8_0")
_DTYPE = "bfloat16"
_MIB = 2**20


def main() -> None:
    """Measure and write benchmarks/results/gguf_memory.json."""
    default = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind in _KINDS:
            file = Path(name) / f"{kind}.gguf"
            write_llama(default, file, gguf.GGMLQuantizationType[kind])
            figures[kind] = _figures(file, Path(name) / "cache")
            print(f"{kind}: {figures[kind]}")
    print(f"written to {write_result('gguf_memory', {'dtype': _DTYPE} | figures).name}")


def _figures(file: Path, cache: Path) -> dict[str, float]:
    """Return MiB of the file, of the folder beside it, and of processes that serve it."""
    kept, full = (
        resolve_model(str(file), cache, NoProgress(), keep_quantized=keep).path
        for keep in (True, False)
    )
    sizes = {"file": file.stat().st_size, "weights": weights_bytes(kept, _DTYPE)}
    for form, folder in (("kept", kept), ("dequantized", full)):
        measure(folder, _DTYPE)  # compiles what is missing
        taken = measure(folder, _DTYPE)
        own = (path for path in folder.iterdir() if not path.is_symlink())
        sizes |= {
            f"{form}: cache on disk": sum(path.stat().st_size for path in own),
            f"{form}: peak": taken.peak_bytes,
            f"{form}: after the start": taken.held_bytes,
        }
    return {name: round(size / _MIB, 1) for name, size in sizes.items()}


if __name__ == "__main__":
    typer.run(main)
