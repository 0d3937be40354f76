"""Limits that control groups set on this process: CPU time and memory, of cgroup v1, v2 or both.

A limit of any group above counts too, so each question looks at the own group and all visible ones above it.
A value that cannot be read or makes no sense is no limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CgroupTree:
    """Mount of the groups, and the file that names this process's own."""

    root: Path = Path("/sys/fs/cgroup")
    own: Path = Path("/proc/self/cgroup")


HERE = CgroupTree()


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """CPU time that a group gets, in CPUs, and the file that sets it."""

    cpus: float
    file: Path


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Memory limit of a group, the bytes left below it, and the file that sets it."""

    limit_bytes: int
    available_bytes: int
    file: Path


def cpu_quota(tree: CgroupTree = HERE) -> CpuQuota | None:
    """Return the least quota of all groups; None where there is none."""
    quotas = [
        *(_quota_v2(folder) for folder in _folders_v2(tree)),
        *(_quota_v1(folder) for folder in _folders_v1(tree, "cpu")),
    ]
    return min((q for q in quotas if q is not None), key=lambda quota: quota.cpus, default=None)


def memory_limits(tree: CgroupTree = HERE) -> list[MemoryLimit]:
    """Return the limits of all groups that have one. In v1 "unlimited" is a limit beyond any machine."""
    limits = [
        *(_memory_v2(folder) for folder in _folders_v2(tree)),
        *(_memory_v1(folder) for folder in _folders_v1(tree, "memory")),
    ]
    return [limit for limit in limits if limit is not None]


def _quota_v2(folder: Path) -> CpuQuota | None:
    file = folder / "cpu.max"
    quota, _, period = _read(file).partition(" ")
    return _quota(_number(quota), _number(period), file)


def _quota_v1(folder: Path) -> CpuQuota | None:
    file = folder / "cpu.cfs_quota_us"  # -1: none
    return _quota(_number(_read(file)), _number(_read(folder / "cpu.cfs_period_us")), file)


def _quota(quota_us: int | None, period_us: int | None, file: Path) -> CpuQuota | None:
    return CpuQuota(quota_us / period_us, file) if quota_us and period_us else None


def _memory_v2(folder: Path) -> MemoryLimit | None:
    # above memory.high the kernel slows the group down so much that it is a limit too
    files = (folder / "memory.max", folder / "memory.high")
    stat = _read_stat(folder)
    cached = stat.get("inactive_file", 0) + stat.get("active_file", 0)
    return _least(
        [(_number(_read(file)), file) for file in files], folder / "memory.current", cached
    )


def _memory_v1(folder: Path) -> MemoryLimit | None:
    file, stat = folder / "memory.limit_in_bytes", _read_stat(folder)
    # also of groups above the folders that a container sees
    above = (stat.get("hierarchical_memory_limit"), folder / "memory.stat")
    cached = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    return _least([(_number(_read(file)), file), above], folder / "memory.usage_in_bytes", cached)


def _least(
    limits: list[tuple[int | None, Path]], usage: Path, cached_bytes: int
) -> MemoryLimit | None:
    """Return the least limit.

    Cached files, such as a checkpoint that was read, count as free: the kernel drops them before it ends a
    process.
    """
    known = [(limit, file) for limit, file in limits if limit is not None]
    if not known:
        return None
    limit_bytes, file = min(known)
    used_bytes = max((_number(_read(usage)) or 0) - cached_bytes, 0)
    return MemoryLimit(limit_bytes, max(limit_bytes - used_bytes, 0), file)


def _folders_v2(tree: CgroupTree) -> Iterator[Path]:
    """Yield the groups of v2; where v1 has the controllers, they lie apart and have no limits."""
    root = tree.root if (tree.root / "cgroup.controllers").exists() else tree.root / "unified"
    for controllers, path in _memberships(tree):
        if not controllers:
            yield from _upwards(root, path)


def _folders_v1(tree: CgroupTree, controller: str) -> Iterator[Path]:
    for controllers, path in _memberships(tree):
        if controller in controllers.split(","):
            mounts = (tree.root / controller, tree.root / controllers)
            yield from _upwards(next((m for m in mounts if m.exists()), mounts[0]), path)


def _memberships(tree: CgroupTree) -> Iterator[tuple[str, str]]:
    """Yield controllers, "" for v2, and the path of each group of this process."""
    for line in _read(tree.own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield controllers, path


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield the group's folder and those above it.

    A container may see its own group as the mount while the path is the host's. Then the folders of the path
    are absent and the mount is there. A path with ".." leads out of the mount.
    """
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _read_stat(folder: Path) -> dict[str, int]:
    pairs = (line.partition(" ") for line in _read(folder / "memory.stat").splitlines())
    return {name: int(value) for name, _, value in pairs if value.isdecimal()}


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(text: str) -> int | None:
    """Return the number; None for "max", -1, nothing and any other text."""
    return int(text) if text.isascii() and text.isdecimal() else None
