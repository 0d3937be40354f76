"""Start-up measurements on disk, so that a worker measures itself once a model and machine, not each time.

1. A start without measurements takes one, in about two seconds, in ten at most on a slow machine.
2. While the worker runs, its corrections say whether that was right (costs.py). On a machine that was busy
   then, or has changed since, steps take less than half or more than twice the predicted time. After a
   minute of them the file is marked.
3. The start after that measures once more and removes the mark. Of the last `_KEPT` measurements each
   trial's fastest run counts: what disturbs a measurement only ever makes it slower.
4. Where a mark comes back all the same, the machine is always busy, and the corrections deal with it. From
   `_KEPT` measurements on, there is another one a day at most.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from common.cache_dir import default_cache_dir
from common.config import WorkerSpec
from common.engine.build import Engine, build_engine
from common.engine.memory.worker_share import WorkerShare
from common.engine.prepare import prepare_kernels
from common.engine.profiling.costs import within_limits
from common.engine.profiling.profiler import (
    is_complete,
    measure_trials,
    to_profile,
    trial_sizes,
)
from common.engine.stages import BeginStage, untold
from common.profile import WorkerProfile
from common.telemetry.logs import get_logger
from pdserve import __version__

# settings of the engine that do not affect the measurement
_NO_PART = {
    "allow_unused_weights",
    "kv_cache_gib",  # of which only the trials' own sizes matter
    "gpu_memory_utilization",
    "swap_gib",
    "watermark",
    "preemption",
    "itl_target_s",
    "ttft_target_s",
}
_KEPT = 3
_DAY = timedelta(days=1)
_log = get_logger()


def profiles_dir() -> Path:
    """Return the folder of profiles, beside the models."""
    return default_cache_dir().parent / "profiles"


def build(spec: WorkerSpec, stage: BeginStage = untold) -> Engine:
    """Build a worker's engine, whose costs are not known yet. Raises SetupError like build_engine."""
    with stage("compiling kernels") as remark:
        # prefill and decode workers start together: each compiles half, and loads the other's
        is_second = spec.role == "decode"
        remark.text = prepare_kernels(spec.model_dir, spec.engine, spec.num_threads, is_second)
    share = WorkerShare(spec.memory_bytes, spec.machine_workers, spec.gpu_share)
    return build_engine(spec.model_dir, spec.engine, spec.num_threads, share, stage)


def begin_costs(engine: Engine, spec: WorkerSpec, stage: BeginStage = untold) -> None:
    """Have an engine's costs begin at its profile, and take its memory.

    A profile is measured in the calling thread, which has to be the one that computes: another one may have
    another priority.
    """
    cache = ProfileCache(engine, spec.num_threads, profiles_dir())
    measured = within_limits(cache.load_or_measure(stage), engine.limits)
    engine.costs.begin(measured, cache.mark_stale)
    engine.cache.take_memory()  # last, when the start no longer needs the cores for itself


@dataclass(frozen=True, slots=True)
class _Measurement:
    at: datetime
    seconds: dict[str, float]  # by trial


class ProfileCache:
    """Measurements of one engine on `num_threads` threads, in a file of `folder`."""

    def __init__(
        self,
        engine: Engine,
        num_threads: int,
        folder: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._path = folder / f"{_name(engine, num_threads)}.json"
        self._mark = self._path.with_suffix(".stale")
        self._now = now

    def load_or_measure(self, stage: BeginStage = untold) -> WorkerProfile:
        """Return the engine's profile; measure it when the folder holds none, or a wrong one.

        A measurement that is incomplete because the machine was busy or slow is not kept. A folder that
        cannot be read or written only costs time.
        """
        kept = self._read()
        if kept and not self._is_due(kept):
            return self._profile(kept)
        with stage("measuring the profile"):
            seconds = measure_trials(self._engine)
        _log.info("profile_measured", seconds=seconds, before=len(kept))
        taken = _Measurement(self._now(), seconds)
        if not is_complete(self._engine, seconds):
            return self._profile(kept or [taken])
        kept = [*kept, taken][-_KEPT:]
        with contextlib.suppress(OSError):
            _write(self._path, _format(kept))
            self._mark.unlink(missing_ok=True)
        return self._profile(kept)

    def mark_stale(self) -> None:
        """Have a later start measure again."""
        _log.info("profile_stale", file=str(self._path))
        with contextlib.suppress(OSError):
            self._mark.touch()

    def _is_due(self, kept: Sequence[_Measurement]) -> bool:
        age = self._now() - kept[-1].at
        is_recent = timedelta() <= age < _DAY  # clocks are set back, too
        return self._mark.exists() and (len(kept) < _KEPT or not is_recent)

    def _profile(self, kept: Sequence[_Measurement]) -> WorkerProfile:
        best = {
            name: min(measurement.seconds[name] for measurement in kept)
            for name in kept[-1].seconds
        }
        return to_profile(self._engine, best)

    def _read(self) -> list[_Measurement]:
        """Read the measurements, oldest first; none from a file that is missing, damaged or outdated."""
        try:
            kept = _parse(self._path.read_text())
            is_usable = all(self._is_usable(taken.seconds) for taken in kept)
            return kept if is_usable and self._profile(kept).is_sound() else []
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return []

    def _is_usable(self, seconds: dict[str, float]) -> bool:
        are_times = all(math.isfinite(value) and value >= 0 for value in seconds.values())
        return are_times and is_complete(self._engine, seconds)


def _name(engine: Engine, num_threads: int) -> str:
    """Return a name that follows from everything a profile depends on."""
    device = engine.cache.keys.device
    facts = {
        "fingerprint": engine.spec.fingerprint,  # the dtype is a part of it
        "engine": engine.config.model_dump(exclude=_NO_PART),
        "trials": trial_sizes(engine),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "num_threads": num_threads,
        "version": __version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _cpu() -> str:
    """Return the CPU's name; a home folder may be shared by machines that differ."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _format(kept: Sequence[_Measurement]) -> str:
    return json.dumps([{"at": taken.at.isoformat(), "seconds": taken.seconds} for taken in kept])


def _parse(text: str) -> list[_Measurement]:
    return [
        _Measurement(datetime.fromisoformat(fields["at"]).astimezone(UTC), fields["seconds"])
        for fields in json.loads(text)
    ]


def _write(path: Path, text: str) -> None:
    """Write the file so that it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
