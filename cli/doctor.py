"""`pdserve doctor`: what this machine has, and what would keep pdserve from running on it."""

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import typer
from rich.console import Console

from cli.findings import Finding
from cli.kernel_tests import check_kernels
from cli.shadowing import HOME, OURS, foreign_packages, remedy
from common.config import ServeConfig
from common.engine.weights.cache import default_cache_dir

_GIB = 2**30
_LIBRARIES = ("torch", "transformers", "ray", "grpcio", "protobuf", "numba")
_SHM = Path("/dev/shm")  # noqa: S108 - its size matters, nothing is written there


def command() -> None:
    """Check this machine."""
    console = Console()
    findings = [finding for check in _CHECKS for finding in check()]
    for finding in findings:
        mark = "[red]✗[/red]" if finding.problem else "[green]✓[/green]"
        console.print(f"{mark} {finding.name}: {finding.value}", highlight=False)
        for note, color in ((finding.problem, "yellow"), (finding.remark, "dim")):
            if note:
                console.print(f"    [{color}]{note}[/{color}]")
    raise typer.Exit(1 if any(finding.problem for finding in findings) else 0)


def _check_packages() -> list[Finding]:
    foreign = foreign_packages()
    if not foreign:
        return [Finding("packages", f"all {len(OURS)} are pdserve's own, in {HOME}")]
    return [Finding(f"package {n}", str(origin), remedy(n)) for n, origin in foreign.items()]


def _check_versions() -> list[Finding]:
    python = sys.version.split()[0]
    problem = None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed"
    versions, missing = [], []
    for name in _LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    lack = f"not installed: {', '.join(missing)}; install pdserve again" if missing else None
    return [Finding("python", python, problem), Finding("libraries", ", ".join(versions), lack)]


def _check_machine() -> list[Finding]:
    cores = len(os.sched_getaffinity(0))
    free = psutil.virtual_memory().available
    shm = shutil.disk_usage(_SHM).free if _SHM.exists() else 0
    config = ServeConfig()
    store = 2 * config.transfer.max_inflight_mib * 2**20 * config.decode
    return [
        Finding(
            "cores",
            str(cores),
            remark="prefill and decode share a core" if cores == 1 else None,
        ),
        Finding("memory", f"{free / _GIB:.1f} GiB available", _need(free, 4 * _GIB, "4 GiB")),
        Finding(
            "shared memory",
            f"{shm / _GIB:.1f} GiB free",
            _need(shm, store, f"{store / _GIB:.1f} GiB, or Ray falls back to disk"),
        ),
    ]


def _check_gpu() -> list[Finding]:
    import torch  # a second to import; the other checks should show first

    if not torch.cuda.is_available():
        return [Finding("gpu", "none; attention backends: cpu, reference")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [Finding("gpu", ", ".join(names))]


def _check_ports() -> list[Finding]:
    config = ServeConfig()
    found = []
    for key, port in (("grpc_port", config.grpc_port), ("http_port", config.http_port)):
        with socket.socket() as probe:
            is_taken = probe.connect_ex(("127.0.0.1", port)) == 0
        value = "in use (perhaps by pdserve itself)" if is_taken else "free"
        found.append(Finding(f"{key} {port}", value))
    return found


def _check_cache() -> list[Finding]:
    cache = default_cache_dir()
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    problem = None if os.access(parent, os.W_OK) else f"{parent} is not writable"
    return [Finding("model cache", str(cache), problem)]


def _need(have: int, want: int, text: str) -> str | None:
    return None if have >= want else f"at least {text}"


_CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _check_versions,
    _check_packages,
    _check_machine,
    _check_ports,
    _check_cache,
    _check_gpu,
    check_kernels,
)
