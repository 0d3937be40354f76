"""Memory that a checkpoint takes, by the headers of its files."""

import math
from pathlib import Path

from common.engine.weights.gguf_index import is_kept, read_index
from common.engine.weights.prequantized.plan import DEQUANTIZED, plan_for, tell_plan
from common.engine.weights.stored import StoredTensor, read_header, weight_files
from pdserve.errors import SetupError

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CONVERTED = 1.4
_KEPT_PEAK = 1.1  # panels, and the blocks of the weight that is laid out


def weights_bytes(model_dir: Path, dtype: str) -> int:
    """Return the bytes of a folder's weights in `dtype`; quantized ones of a GGUF file are held as they are.

    Other quantized ones count as they are dequantized. A file that cannot be read counts nothing: loading
    it says what is wrong.
    """
    if is_kept(model_dir):
        return _kept_bytes(model_dir, dtype)
    return sum(math.prod(tensor.shape) for tensor in _tensors(model_dir)) * _ITEM_BYTES[dtype]


def told_weights(model_dir: Path, dtype: str, seconds: float) -> str:
    """Return words about a folder's weights that were loaded: bytes in memory, rate, and what they were."""
    return told_rate(weights_bytes(model_dir, dtype), seconds) + tell_plan(model_dir)


def told_rate(num_bytes: int, seconds: float) -> str:
    """Return, for example, "1.50 GB at 0.75 GB/s"."""
    gb = num_bytes / 1e9
    return f"{gb:.2f} GB at {gb / max(seconds, 1e-9):.2f} GB/s"


def loading_bytes(model_dir: Path, dtype: str) -> int:
    """Return the bytes of a folder's weights in `dtype` at the time when most of them are held.

    Weights stored in another dtype count 1.4 times: that is more than a build was measured to take
    (benchmarks.load_memory). It leaves room for tensors that are read, converted or laid out meanwhile.
    Of weights that are dequantized only a part is read at a time.
    """
    if is_kept(model_dir):
        return int(_KEPT_PEAK * _kept_bytes(model_dir, dtype))
    alike = (_STORED[dtype], DEQUANTIZED)
    counts = [(math.prod(t.shape), t.dtype in alike) for t in _tensors(model_dir)]
    numbers = sum(count if is_alike else _CONVERTED * count for count, is_alike in counts)
    return int(numbers * _ITEM_BYTES[dtype])


def _kept_bytes(model_dir: Path, dtype: str) -> int:
    try:
        tensors = read_index(model_dir).tensors
    except SetupError:
        return 0
    # takes torch
    from common.engine.weights.gguf_blocks import stored_bytes

    item_bytes = _ITEM_BYTES[dtype]
    return sum(stored_bytes(t.kind, math.prod(t.shape), item_bytes) for t in tensors.values())


def _tensors(model_dir: Path) -> list[StoredTensor]:
    """Return the entries of every weight of the files that are loaded and readable."""
    try:
        files = weight_files(model_dir)
    except SetupError:
        return []
    stored = {name: tensor for path in files for name, tensor in _file_tensors(path).items()}
    try:
        plan = plan_for(model_dir, lambda: stored)
    except SetupError:
        plan = None
    return list((stored if plan is None else plan.entries()).values())


def _file_tensors(path: Path) -> dict[str, StoredTensor]:
    try:
        return read_header(path)
    except SetupError:
        return {}
