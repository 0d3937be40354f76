"""Memory of a worker on a GPU: what weights need before they are loaded, and what is left for KV after.

A worker that shares its GPU with others takes none of what is theirs.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch

from common.auto_setting import Auto
from common.config import EngineConfig
from common.engine.memory.kv_want import KVWant
from common.engine.memory.worker_share import WorkerShare
from pdserve.errors import SetupError

_GIB = 2**30
_REMEDY = "take a smaller or quantized model, a larger GPU, or fewer workers on it"
STEP_REMEDY = f"{_REMEDY}, or lower engine.max_batch_tokens"


def keep_to_share(share: float, config: EngineConfig) -> None:
    """Let this process take no more of its GPU's memory than a share of it; 0 and 1 set no limit.

    Raises SetupError if the memory for KV alone exceeds the share.
    """
    if not 0 < share < 1 or not torch.cuda.is_available():
        return
    _, total_bytes = torch.cuda.mem_get_info()
    if config.kv_cache_gib != "auto":
        check_share(share, total_bytes, config.kv_cache_gib)
    torch.cuda.set_per_process_memory_fraction(share)


def check_share(share: float, total_bytes: int, kv_cache_gib: float) -> None:
    """Raise SetupError if KV memory does not fit into a share of a GPU's memory."""
    share_gib = share * total_bytes / _GIB
    if kv_cache_gib > share_gib:
        raise SetupError(
            f"engine.kv_cache_gib {kv_cache_gib:g} exceeds this worker's share of its GPU, "
            f"{share:g} of {total_bytes / _GIB:.1f} GiB",
            "lower it, or give each worker a GPU of its own",
        )


@dataclass(frozen=True, slots=True)
class GpuRoom:
    """Memory of a GPU at one moment, as one worker sees it."""

    total_bytes: int
    free_bytes: int
    own_bytes: int  # that this process has taken
    share: WorkerShare
    weights_bytes: int = 0  # not taken yet

    @classmethod
    def read(cls, device: torch.device, share: WorkerShare, weights_bytes: int = 0) -> Self:
        """Read the memory that there is now."""
        free, total = torch.cuda.mem_get_info(device)
        return cls(total, free, torch.cuda.memory_reserved(device), share, weights_bytes)

    def taking(self, num_bytes: int) -> Self:
        """Return the memory as it will be once this process takes so many bytes more, or gives them back."""
        free, own = self.free_bytes - num_bytes, self.own_bytes + num_bytes
        return replace(self, free_bytes=free, own_bytes=own)

    @property
    def left_bytes(self) -> int:
        """Bytes that this worker may still take: what is free, within its share."""
        share = self.share.gpu
        if not 0 < share < 1:
            return self.free_bytes
        return max(min(self.free_bytes, int(share * self.total_bytes) - self.own_bytes), 0)

    def check(self, kv_cache_gib: float | Auto, want: KVWant) -> None:
        """Raise SetupError where weights that are not loaded yet leave no room for KV."""
        kv, kv_bytes = want.least_told, float(want.least_bytes)
        if kv_cache_gib != "auto":
            kv, kv_bytes = f"engine.kv_cache_gib {kv_cache_gib:g} GiB", kv_cache_gib * _GIB
        if self.weights_bytes + kv_bytes > self.left_bytes:
            weights_gib = self.weights_bytes / _GIB
            raise SetupError(
                f"the model does not fit: weights take {weights_gib:.2f} GiB, {kv}, and this worker "
                f"may have {self._describe()}",
                _REMEDY,
            )

    def kv_bytes(self, utilization: float, want: KVWant) -> int:
        """Return the bytes for KV: a part of what is left once all else is there.

        Raises SetupError where that is too little for one sequence.
        """
        part = int(utilization * self.left_bytes)
        if part < want.least_bytes:
            raise SetupError(
                f"the model does not fit: {want.least_told}, and weights, graphs and the largest step "
                f"leave {self._describe()}, of which engine.gpu_memory_utilization gives {utilization:g}",
                STEP_REMEDY,
            )
        return min(part, want.most_bytes)

    def _describe(self) -> str:
        return f"{self.left_bytes / _GIB:.2f} GiB of the GPU's {self.total_bytes / _GIB:.2f}"
