"""Which cores each worker of this machine gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pdserve.errors import PreconditionError


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of the machine; empty `cores` means not pinned."""

    num_threads: int
    cores: tuple[int, ...]


def share_cores(num_workers: int, cores: Sequence[int], pin: Literal["auto", "off"]) -> list[Share]:
    """Disjoint, equal core sets while there are enough cores; otherwise one thread each, unpinned.

    Pinning keeps prefill off decode's cores, which is what flat inter-token latency rests on.
    """
    per_worker = len(cores) // num_workers
    if per_worker < 1:
        return [Share(1, ())] * num_workers
    if pin == "off":
        return [Share(per_worker, ())] * num_workers
    starts = range(0, per_worker * num_workers, per_worker)
    return [Share(per_worker, tuple(cores[i : i + per_worker])) for i in starts]


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
