"""Choosing the dtype of weights and KV: `engine.dtype: auto`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import psutil
import torch

from common.config import Dtype, StoredDtype

_LENGTH_BYTES = 8  # a safetensors file begins with its header's length
_FLOAT32_BYTES = 4
# while a model is loaded its weights are in memory twice, and the system needs some too
_WEIGHTS_SHARE = 0.4
_FALLBACK: StoredDtype = "bfloat16"


@dataclass(frozen=True, slots=True)
class ChosenDtype:
    """A dtype, and why it is the one."""

    dtype: StoredDtype
    reason: str


def choose_dtype(asked: Dtype, model_dir: Path, device: torch.device) -> ChosenDtype:
    """The dtype that a model is loaded in; see docs/engine.md."""
    if asked != "auto":
        return ChosenDtype(asked, "engine.dtype")
    if device.type != "cpu":
        return _of_checkpoint(model_dir)
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu.target import host_target

    target = host_target()
    if target.prefers_bfloat16:
        return ChosenDtype(
            "bfloat16", f"as fast as float32 or faster on {target.level}, half the memory"
        )
    needed, available = _float32_bytes(model_dir), psutil.virtual_memory().available
    if needed > _WEIGHTS_SHARE * available:
        reason = f"float32 would be faster on {target.level}, but takes {needed / 2**30:.1f} GiB"
        return ChosenDtype(_FALLBACK, reason)
    return ChosenDtype("float32", f"the fastest on {target.level}")


def _of_checkpoint(model_dir: Path) -> ChosenDtype:
    stated = _stated(json.loads((model_dir / "config.json").read_text()))
    if stated is None:
        return ChosenDtype(_FALLBACK, "the checkpoint names no dtype that can be served")
    return ChosenDtype(stated, "the checkpoint's")


def _stated(config: Mapping[str, object]) -> StoredDtype | None:
    nested = config.get("text_config")
    for part in (config, nested if isinstance(nested, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            for known in get_args(StoredDtype):
                if part.get(key) == known:
                    return known  # type: ignore[no-any-return]
    return None


def _float32_bytes(model_dir: Path) -> int:
    """Memory of all weights in float32, by the headers of their files."""
    return sum(_FLOAT32_BYTES * n for path in model_dir.glob("*.safetensors") for n in _sizes(path))


def _sizes(path: Path) -> Iterator[int]:
    """Numbers in each tensor. A damaged file has none here; loading it tells."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little")))
        shapes = [tensor["shape"] for key, tensor in header.items() if key != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        return
    for shape in shapes:
        count = 1
        for length in shape:
            count *= length
        yield count
