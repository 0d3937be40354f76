"""Choosing the dtype of weights and KV: `engine.dtype: auto`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from common.cgroup import HERE, CgroupTree
from common.config import EngineConfig, StoredDtype
from common.engine.memory.host_budget import fixed_bytes
from common.machine import read_memory

_GIB = 2**30
_FALLBACK: StoredDtype = "bfloat16"
_ROOM_GIB = 1.0  # for KV, where its size is auto


@dataclass(frozen=True, slots=True)
class ChosenDtype:
    """Dtype that was chosen, and the reason."""

    dtype: StoredDtype
    reason: str


def choose_dtype(
    config: EngineConfig,
    model_dir: Path,
    device: torch.device,
    share_bytes: int | None = None,
    tree: CgroupTree = HERE,
) -> ChosenDtype:
    """The dtype that a model is loaded in; see docs/design/engine.md.

    `share_bytes` is the memory that the worker may have; None: all that is usable now.
    """
    if config.dtype != "auto":
        return ChosenDtype(config.dtype, "engine.dtype")
    if device.type != "cpu":
        return _of_checkpoint(model_dir)
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu.target import host_target

    target = host_target()
    if target.prefers_bfloat16:
        return ChosenDtype("bfloat16", f"the fastest all in all on {target.level}")
    share = read_memory(tree).usable_bytes if share_bytes is None else share_bytes
    kv_gib = _ROOM_GIB if config.kv_cache_gib == "auto" else config.kv_cache_gib
    in_float32 = config.model_copy(update={"dtype": "float32"})
    needed = fixed_bytes(model_dir, in_float32) + kv_gib * _GIB
    if needed > share:
        reason = f"float32, the fastest on {target.level}, needs {needed / _GIB:.1f} GiB"
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
