"""Which cores each worker of this machine gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


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
