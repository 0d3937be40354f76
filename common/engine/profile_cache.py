"""Start-up profiles on disk, so that a worker measures itself once a model and machine."""

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from common.config import WorkerSpec
from common.engine.costs import within_limits
from common.engine.engine import Engine, build_engine
from common.engine.profiling import largest_step, measure_profile
from common.engine.weights.cache import default_cache_dir
from common.profile import WorkerProfile
from common.telemetry.logs import get_logger
from pdserve import __version__

# settings of the engine that change nothing of what is measured
_NO_PART = {"swap_gib", "watermark", "preemption", "itl_target_s", "ttft_target_s"}
_log = get_logger()


def profiles_dir() -> Path:
    """Beside the models."""
    return default_cache_dir().parent / "profiles"


def build_profiled(spec: WorkerSpec) -> Engine:
    """A worker's engine, with costs that begin at its profile. Raises SetupError as build_engine does."""
    engine = build_engine(spec.model_dir, spec.engine, spec.num_threads, spec.memory_bytes)
    measured = load_or_measure(engine, spec.num_threads, profiles_dir())
    engine.costs.begin(within_limits(measured, spec.engine))
    return engine


def load_or_measure(engine: Engine, num_threads: int, folder: Path) -> WorkerProfile:
    """The engine's profile; measured, which takes about two seconds, when the folder does not hold it.

    One that is incomplete because the machine was busy or slow is not kept. A folder that cannot be read
    or written only costs time.
    """
    path = folder / f"{_name(engine, num_threads)}.json"
    known = _read(path)
    if known is not None:
        return known
    profile = measure_profile(engine)
    _log.info("profile_measured", row_counts=profile.row_counts, row_seconds=profile.row_seconds)
    if profile.row_counts[-1] == largest_step(engine):
        with contextlib.suppress(OSError):
            _write(path, profile)
    return profile


def _name(engine: Engine, num_threads: int) -> str:
    """Follows from all that a profile depends on."""
    device = engine.cache.keys.device
    facts = {
        "fingerprint": engine.spec.fingerprint,  # the dtype is a part of it
        "engine": engine.config.model_dump(exclude=_NO_PART),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "num_threads": num_threads,
        "version": __version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _cpu() -> str:
    """The CPU's name; a home folder may be shared by machines that differ."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> WorkerProfile | None:
    try:
        fields = json.loads(path.read_text())
        counts, seconds = tuple(fields.pop("row_counts")), tuple(fields.pop("row_seconds"))
        profile = WorkerProfile(row_counts=counts, row_seconds=seconds, **fields)
        return profile if profile.is_sound() else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write(path: Path, profile: WorkerProfile) -> None:
    """The file appears whole or not at all."""
    fields = asdict(profile)
    del fields["correction"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(fields, file)
    os.replace(file.name, path)
