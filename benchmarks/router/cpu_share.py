"""A share of one core for a process, by a control group of Linux (version 1)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pdserve.errors import SetupError

_ROOT = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 20_000
_WEIGHT = 65_536  # of the group beside others, which is 1,024 by default


@contextlib.contextmanager
def cpu_share(pid: int, share: float) -> Iterator[None]:
    """Give a process `share` seconds of processor time a second, and no more, while the block runs.

    Its weight is so high that it gets them beside other processes too.

    Raises SetupError where this process may make no control groups.
    """
    group = _ROOT / f"pdserve-benchmark-{pid}"
    try:
        group.mkdir()
    except OSError as error:
        raise SetupError(
            f"no control group for processor time: {error}",
            f"run as root where {_ROOT} is a control group of version 1, or give --share 1",
        ) from error
    try:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(round(share * _PERIOD_US)))
        (group / "cpu.shares").write_text(str(_WEIGHT))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (_ROOT / "cgroup.procs").write_text(left)
        group.rmdir()
