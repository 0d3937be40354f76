"""Medians of repeated runs, by the device's clock and by the host's."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Times:
    """Medians over the repetitions, in seconds."""

    device_s: float  # between two events around the run, including gaps in which the device waits
    host_s: float  # until the device has finished


def measure(function: Callable[[], object], device: torch.device, repeats: int) -> Times:
    """Run `function` `repeats` times, after a few unmeasured runs.

    The unmeasured runs load libraries and capture graphs.
    """
    for _ in range(_WARM_UP):
        function()
    timed = _timed_cuda if device.type == "cuda" else _timed_host
    samples = [timed(function) for _ in range(repeats)]
    return Times(
        statistics.median(sample.device_s for sample in samples),
        statistics.median(sample.host_s for sample in samples),
    )


def _timed_cuda(function: Callable[[], object]) -> Times:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start_s = time.perf_counter()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    host_s = time.perf_counter() - start_s
    return Times(start.elapsed_time(end) / 1000, host_s)


def _timed_host(function: Callable[[], object]) -> Times:
    start_s = time.perf_counter()
    function()
    elapsed_s = time.perf_counter() - start_s
    return Times(elapsed_s, elapsed_s)
