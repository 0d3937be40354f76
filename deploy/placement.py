"""Which cores each worker of this machine gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.machine import Cores
from pdserve.errors import PreconditionError


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of the machine; empty `cores` means not pinned."""

    num_threads: int
    cores: tuple[int, ...]


def share_cores(num_workers: int, cores: Cores, pin: Literal["auto", "off"]) -> list[Share]:
    """Disjoint, equal core sets while there are enough cores; otherwise one thread each, unpinned.

    Pinning keeps prefill off decode's cores, which is what flat inter-token latency rests on. Under a quota
    no core is ours: every container of the machine would pin to the same first ones while others idle. There
    only the threads are shared out, and the system finds each of them a core.
    """
    per_worker = cores.count // num_workers
    if per_worker < 1:
        return [Share(1, ())] * num_workers
    if pin == "off" or cores.is_shared:
        return [Share(per_worker, ())] * num_workers
    starts = range(0, per_worker * num_workers, per_worker)
    return [Share(per_worker, cores.mask[i : i + per_worker]) for i in starts]


def share_free_cores(num_workers: int, free: Sequence[int], like: Share) -> list[Share]:
    """For workers that join those there, of which `like` is one.

    Beside pinned ones: free cores of their own, as many as those have or fewer, at least one each.
    Raises PreconditionError when there are too few. Beside unpinned ones: the same threads on all cores.
    """
    if not like.cores:
        return [like] * num_workers
    per_worker = min(len(free) // num_workers, like.num_threads)
    if per_worker < 1:
        raise PreconditionError(
            f"{num_workers} new workers need a core each, {len(free)} are free: the others are pinned to "
            "workers. Take from the other role, or serve with `pin: off`, where workers share cores"
        )
    starts = range(0, per_worker * num_workers, per_worker)
    return [Share(per_worker, tuple(free[i : i + per_worker])) for i in starts]
