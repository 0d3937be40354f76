"""Breakdown of a step's device time by kind of kernel.

Read it beside the step's time: the device spends the rest of the step waiting for the host.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

_RUNS = 3
# a kernel has the first kind of which a part occurs in its lower-case name; FlashAttention's
# names contain "cutlass" too
_KINDS = {
    "attention": ("flash", "fmha"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "gemv", "splitk"),
    "copies": ("memcpy", "memset", "index", "scatter", "gather"),
}
_REST = "norms, rotary, gate, sampling"


@dataclass(frozen=True, slots=True)
class Kernels:
    """All kernels of one name: number of runs, and total time."""

    name: str
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Share:
    """All kernels of one kind in one step."""

    kind: str
    count: float
    seconds: float


def by_kind(kernels: Iterable[Kernels], runs: int) -> list[Share]:
    """Return the kinds in one of `runs` equal steps, in a fixed order."""
    counts = dict.fromkeys((*_KINDS, _REST), 0)
    seconds = dict.fromkeys(counts, 0.0)
    for kernel in kernels:
        counts[_kind(kernel.name)] += kernel.count
        seconds[_kind(kernel.name)] += kernel.seconds
    return [Share(kind, counts[kind] / runs, seconds[kind] / runs) for kind in counts]


def profile(step: Callable[[], object]) -> list[Share]:
    """Profile a few runs of `step` on a CUDA device; `step` must have run before."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as found:
        for _ in range(_RUNS):
            step()
        torch.cuda.synchronize()
    on_device = (
        event
        for event in found.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    kernels = (Kernels(e.key, e.count, e.self_device_time_total * 1e-6) for e in on_device)
    return by_kind(kernels, _RUNS)


def _kind(name: str) -> str:
    lower = name.lower()
    for kind, parts in _KINDS.items():
        if any(part in lower for part in parts):
            return kind
    return _REST
