"""Memory that a checkpoint takes, by the headers of its files."""

import math
from dataclasses import dataclass
from pathlib import Path

from common.engine.weights.gguf_index import is_kept, read_index
from common.engine.weights.prequantized.packed import PackedWeight
from common.engine.weights.prequantized.panel_groups import kept_form
from common.engine.weights.prequantized.plan import plan_for, tell_plan
from common.engine.weights.stored import StoredTensor, read_header, weight_files, without_speech
from pdserve.errors import SetupError

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CONVERTED = 1.4
_KEPT_PEAK = 1.1  # panels, and the blocks of the weight that is laid out


def weights_bytes(model_dir: Path, dtype: str, *, keeps_integers: bool = False) -> int:
    """Return the bytes of a folder's weights in `dtype`; those of a kept GGUF file are held as they are.

    Other quantized ones count as they are dequantized, or with `keeps_integers` as they are. A file that
    cannot be read counts nothing: loading it says what is wrong.
    """
    if is_kept(model_dir):
        return _kept_bytes(model_dir, dtype)
    return int(_sum_bytes(_read(model_dir), dtype, keeps_integers))


def told_weights(model_dir: Path, dtype: str, seconds: float, keeps_integers: bool) -> str:
    """Return words about a folder's weights that were loaded: bytes in memory, rate, and what they were."""
    num_bytes = weights_bytes(model_dir, dtype, keeps_integers=keeps_integers)
    return told_rate(num_bytes, seconds) + tell_plan(model_dir, keeps_integers)


def told_rate(num_bytes: int, seconds: float) -> str:
    """Return, for example, "1.50 GB at 0.75 GB/s"."""
    gb = num_bytes / 1e9
    return f"{gb:.2f} GB at {gb / max(seconds, 1e-9):.2f} GB/s"


def loading_bytes(model_dir: Path, dtype: str, *, keeps_integers: bool = False) -> int:
    """Return the bytes of a folder's weights in `dtype` at the time when most of them are held.

    Weights stored in another dtype count 1.4 times: that is more than a build was measured to take
    (benchmarks.load_memory). It leaves room for tensors that are read, converted or laid out meanwhile.
    Of weights that are dequantized only a part is read at a time.
    """
    if is_kept(model_dir):
        return int(_KEPT_PEAK * _kept_bytes(model_dir, dtype))
    weights = _read(model_dir)
    peak = _KEPT_PEAK if keeps_integers and weights.packed else 1.0
    return int(peak * _sum_bytes(weights, dtype, keeps_integers, _CONVERTED))


def full_bytes(model_dir: Path, dtype: str) -> int:
    """Return the same for small integers that are held first, and then laid out in full width."""
    if is_kept(model_dir):
        return int(_KEPT_PEAK * _count_kept(model_dir) * _ITEM_BYTES[dtype])
    return int(_KEPT_PEAK * _sum_bytes(_read(model_dir), dtype, False, _CONVERTED))


def _sum_bytes(
    weights: "_Weights", dtype: str, keeps_integers: bool, converted: float = 1.0
) -> float:
    """Sum the bytes of weights; those that are stored in another dtype count `converted` times."""
    item_bytes, num_bytes = _ITEM_BYTES[dtype], 0.0
    for tensor in weights.plain:
        times = 1.0 if tensor.dtype == _STORED[dtype] else converted
        num_bytes += times * math.prod(tensor.shape) * item_bytes
    for weight in weights.packed:
        count, kept = math.prod(weight.shape), kept_form(weight) if keeps_integers else None
        num_bytes += count * item_bytes if kept is None else kept.most_bytes(count)
    return num_bytes


def _kept_bytes(model_dir: Path, dtype: str) -> int:
    try:
        tensors = read_index(model_dir).tensors
    except SetupError:
        return 0
    # takes torch, and numba
    from common.engine.cpu.target import host_target
    from common.engine.weights.gguf_blocks import stored_bytes

    item_bytes = _ITEM_BYTES[dtype]
    if not host_target().has_kernels:  # torch needs them in full width
        return _count_kept(model_dir) * item_bytes
    return sum(stored_bytes(t.kind, math.prod(t.shape), item_bytes) for t in tensors.values())


def _count_kept(model_dir: Path) -> int:
    """Count the numbers in the weights of a kept GGUF file; 0 where it cannot be read."""
    try:
        tensors = read_index(model_dir).tensors
    except SetupError:
        return 0
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


@dataclass(frozen=True, slots=True)
class _Weights:
    plain: list[StoredTensor]
    packed: list[PackedWeight]


def _read(model_dir: Path) -> _Weights:
    """Read the entries of every weight of the files that are loaded and readable."""
    try:
        files = weight_files(model_dir)
    except SetupError:
        return _Weights([], [])
    found = {name: tensor for path in files for name, tensor in _file_tensors(path).items()}
    stored = without_speech(model_dir, found)
    try:
        plan = plan_for(model_dir, lambda: stored)
    except SetupError:
        plan = None
    if plan is None:
        return _Weights(list(stored.values()), [])
    return _Weights(list(plan.plain.values()), list(plan.packed.values()))


def _file_tensors(path: Path) -> dict[str, StoredTensor]:
    try:
        return read_header(path)
    except SetupError:
        return {}
