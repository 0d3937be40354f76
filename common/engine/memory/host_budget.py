"""Memory of a worker on a CPU: what it may take, decided before anything large is loaded.

The weights stay, and KV memory is reserved whole at the start. Without the check the system would end a
process that does not fit, without a word.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.auto_setting import Auto
from common.cgroup import HERE, CgroupTree
from common.config import EngineConfig
from common.engine.memory.kv_want import KVWant
from common.engine.memory.worker_share import WorkerShare
from common.engine.product_kernels import are_held_in_full
from common.engine.weights.prequantized.keeping import keeps_integers
from common.engine.weights.size import full_bytes, loading_bytes
from common.machine import Memory, read_memory
from pdserve.errors import SetupError

_GIB = 2**30
_PROCESS_BYTES = 0.3 * _GIB  # Python, torch and transformers, measured: 0.26
_KV_PART = 4  # of the machine's memory a quarter is for KV, of all workers together
_HALF = 2  # the other half of what weights leave is for preempted KV, the object store and steps


@dataclass(frozen=True, slots=True)
class HostRoom:
    """Host memory of one worker, as it was before the weights were loaded."""

    memory: Memory
    share: WorkerShare
    fixed_bytes: float  # that weights and libraries will take yet

    @classmethod
    def read(
        cls,
        model_dir: Path | None,
        config: EngineConfig,
        share: WorkerShare,
        tree: CgroupTree = HERE,
    ) -> Self:
        """Read the memory that there is now; `model_dir` holds weights to load, None: all is loaded.

        The dtype of `config` is chosen already.
        """
        return cls(read_memory(tree), share, _taken_bytes(model_dir, config) if model_dir else 0.0)

    def check(self, kv_cache_gib: float | Auto, want: KVWant) -> None:
        """Raise SetupError where weights and KV do not fit."""
        self.kv_bytes(kv_cache_gib, want)

    def kv_bytes(self, kv_cache_gib: float | Auto, want: KVWant) -> int:
        """Return the bytes for KV. Raises SetupError where they do not fit beside the weights.

        Memory that is taken later and only when needed (swap_gib, KV in transfer) is not counted with a size
        that is set; `auto` leaves room for it.
        """
        if kv_cache_gib == "auto":
            return self._choose(want)
        left_gib = (self._most_bytes - self.fixed_bytes) / _GIB
        if kv_cache_gib <= left_gib:
            return int(kv_cache_gib * _GIB)
        raise SetupError(
            f"engine.kv_cache_gib {kv_cache_gib:g} does not fit: weights and libraries take "
            f"{self.fixed_bytes / _GIB:.2f} GiB more, and a worker may have "
            f"{self._most_bytes / _GIB:.2f} GiB ({_describe(self.memory)})",
            _remedy(left_gib, self.memory),
        )

    @property
    def _most_bytes(self) -> int:
        given = self.share.memory_bytes
        return self.memory.usable_bytes if given is None else given

    def _choose(self, want: KVWant) -> int:
        most = self.share.most_bytes(self.memory)
        left = int(most - self.fixed_bytes)
        if left < want.least_bytes:
            raise SetupError(
                f"the model does not fit: weights and libraries take {self.fixed_bytes / _GIB:.2f} GiB, "
                f"{want.least_told}, and a worker may have {most / _GIB:.2f} GiB ({_describe(self.memory)})",
                _remedy(0.0, self.memory),
            )
        part = self.memory.total_bytes // (_KV_PART * self.share.num_workers)
        return min(max(min(part, left // _HALF), want.least_bytes), want.most_bytes)


def fixed_bytes(model_dir: Path, config: EngineConfig) -> float:
    """Return the most bytes that a worker takes beside its KV memory, with the dtype of `config`.

    Kernels that this CPU can run are taken to be right: they are tried once the dtype is chosen.
    """
    keeps = keeps_integers(model_dir, config)
    return loading_bytes(model_dir, config.dtype, keeps_integers=keeps) + _PROCESS_BYTES


def _taken_bytes(model_dir: Path, config: EngineConfig) -> float:
    """Return the same, where kernels have been tried."""
    if are_held_in_full(model_dir, config):
        return full_bytes(model_dir, config.dtype) + _PROCESS_BYTES
    return fixed_bytes(model_dir, config)


def _describe(memory: Memory) -> str:
    available, total = memory.available_bytes / _GIB, memory.total_bytes / _GIB
    binding = f", limited by {memory.limited_by}" if memory.limited_by else ""
    return f"{available:.2f} available of {total:.2f}{binding}"


def _remedy(left_gib: float, memory: Memory) -> str:
    lower = f"set engine.kv_cache_gib to {left_gib:.2f} or less" if left_gib >= 0.01 else ""
    more = "raise the container's memory limit" if memory.limited_by else "free memory"
    return ", ".join(filter(None, (lower, "start fewer workers", f"or {more}")))
