"""Limit of a worker that shares its GPU with others: none may take what is another's."""

import torch

from common.config import EngineConfig
from pdserve.errors import SetupError

_GIB = 2**30


def keep_to_share(share: float, config: EngineConfig) -> None:
    """Let this process take no more of its GPU's memory than a share of it; 0 and 1 set no limit.

    Raises SetupError if the memory for KV alone exceeds the share.
    """
    if not 0 < share < 1 or not torch.cuda.is_available():
        return
    _, total_bytes = torch.cuda.mem_get_info()
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
