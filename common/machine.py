"""Cores and memory that this process may use: the machine's, within the limits of its container."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.cgroup import HERE, CgroupTree, CpuQuota, cpu_quota, memory_limits


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores of the affinity mask, and the quota of CPU time, if there is one."""

    mask: tuple[int, ...]
    quota: CpuQuota | None = None

    @property
    def count(self) -> int:
        """Number of threads that may compute at once, at least 1.

        A quota counts by its whole CPUs. One thread more would use it up before its period (0.1 s) ends;
        all threads would then stand still, which users see as a gap between tokens. The rest is for the
        router and Ray.
        """
        return max(min(len(self.mask), int(self.quota.cpus)), 1) if self.quota else len(self.mask)

    @property
    def is_shared(self) -> bool:
        """True if a quota gives less than the mask: time on any of its cores, none of which is our own."""
        return self.quota is not None and self.quota.cpus < len(self.mask)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in all and available, and the file of the limit that binds; None: the machine's own size."""

    total_bytes: int
    available_bytes: int
    limited_by: Path | None = None

    @property
    def usable_bytes(self) -> int:
        """Bytes that processes may still take. A twentieth stays free: Ray ends workers at 95 % use."""
        return max(self.available_bytes - self.total_bytes // 20, 0)

    @property
    def largest_bytes(self) -> int:
        """Bytes that processes may take in all: `usable_bytes` where nothing is used."""
        return self.total_bytes - self.total_bytes // 20


def read_cores(tree: CgroupTree = HERE) -> Cores:
    """Read the cores of the calling thread's mask, and the least quota of its groups."""
    return Cores(tuple(sorted(os.sched_getaffinity(0))), cpu_quota(tree))


def read_memory(tree: CgroupTree = HERE) -> Memory:
    """Read the least limit of the machine and all groups, and the least that any of them has left."""
    machine, limits = psutil.virtual_memory(), memory_limits(tree)
    total = min([machine.total, *(limit.limit_bytes for limit in limits)])
    tightest = min(limits, key=lambda limit: limit.available_bytes, default=None)
    if tightest is None or tightest.available_bytes >= machine.available:
        return Memory(total, machine.available)
    return Memory(total, tightest.available_bytes, tightest.file)


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Return True if this machine seems to have a GPU, by its device files; torch would take seconds."""
    named = ("dxg", "kfd")  # of Windows' subsystem, and of AMD
    return any(devices.glob("nvidia[0-9]*")) or any((devices / name).exists() for name in named)
