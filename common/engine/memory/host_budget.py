"""Check that a worker on a CPU fits its memory, made before anything large is loaded.

The KV memory is taken whole at the start and the weights stay. Without the check the system would end a
process that does not fit, without a word.
"""

from pathlib import Path

from common.cgroup import HERE, CgroupTree
from common.config import EngineConfig
from common.engine.weights.size import loading_bytes
from common.machine import Memory, read_memory
from pdserve.errors import SetupError

_GIB = 2**30
_PROCESS_BYTES = 0.3 * _GIB  # Python, torch and transformers, measured: 0.26


def check_memory(
    model_dir: Path,
    config: EngineConfig,
    share_bytes: int | None,
    tree: CgroupTree = HERE,
) -> None:
    """Raise SetupError where weights and KV memory exceed `share_bytes`; None: the memory usable now.

    The dtype of `config` is chosen already. Memory that is taken later and only when needed (swap_gib, KV in
    transfer) is not counted.
    """
    memory = read_memory(tree)
    share = memory.usable_bytes if share_bytes is None else share_bytes
    fixed = fixed_bytes(model_dir, config.dtype)
    left_gib = (share - fixed) / _GIB
    if config.kv_cache_gib <= left_gib:
        return
    raise SetupError(
        f"engine.kv_cache_gib {config.kv_cache_gib:g} does not fit: weights and libraries take "
        f"{fixed / _GIB:.2f} GiB more, and a worker may have {share / _GIB:.2f} GiB ({_describe(memory)})",
        _remedy(left_gib, memory),
    )


def fixed_bytes(model_dir: Path, dtype: str) -> float:
    """Return the most bytes that a worker takes beside its KV memory."""
    return loading_bytes(model_dir, dtype) + _PROCESS_BYTES


def _describe(memory: Memory) -> str:
    available, total = memory.available_bytes / _GIB, memory.total_bytes / _GIB
    binding = f", limited by {memory.limited_by}" if memory.limited_by else ""
    return f"{available:.2f} available of {total:.2f}{binding}"


def _remedy(left_gib: float, memory: Memory) -> str:
    lower = f"set engine.kv_cache_gib to {left_gib:.2f} or less" if left_gib >= 0.01 else ""
    more = "raise the container's memory limit" if memory.limited_by else "free memory"
    return ", ".join(filter(None, (lower, "start fewer workers", f"or {more}")))
