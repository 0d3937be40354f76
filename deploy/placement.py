"""Placement of this machine's workers on its cores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.machine import Cores
from pdserve.errors import PreconditionError


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's share of the machine; empty `cores` means not pinned."""

    num_threads: int
    cores: tuple[int, ...]


def share_cores(num_workers: int, cores: Cores, pin: Literal["auto", "off"]) -> list[Share]:
    """Return disjoint, equal core sets if there are enough cores; else one thread each, unpinned.

    Pinning keeps prefill off decode's cores, so that inter-token latency stays flat. Under a CPU
    quota no core is reserved for us: all containers of a machine would pin to the same first cores.
    Then only threads are shared out, and the system places them.
    """
    per_worker = cores.count // num_workers
    if per_worker < 1:
        return [Share(1, ())] * num_workers
    if pin == "off" or cores.is_shared:
        return [Share(per_worker, ())] * num_workers
    starts = range(0, per_worker * num_workers, per_worker)
    return [Share(per_worker, cores.mask[i : i + per_worker]) for i in starts]


def share_free_cores(num_workers: int, free: Sequence[int], like: Share) -> list[Share]:
    """Return shares for workers that join running ones, of which `like` is one.

    If `like` is pinned, each gets free cores of its own: as many as `like` or fewer, at least one.
    Raises PreconditionError if there are too few. If not, each gets as many threads, unpinned.
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
